"""Both clocks against the size of the training set and the complexity of the rule, with the censored fits."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.clocks.striking import RULE_NOVEL
from analysis.report.numbers import count, fixed
from analysis.report.results import Results
from analysis.report.section import Section
from analysis.report.studies.clocks.labels import Entry, model_label, rule_label, variant_label
from analysis.report.studies.clocks.panels import (
    CLOCK_COLOURS,
    MEMORY_COLOUR,
    RULE_COLOUR,
    clock_mark,
    key,
    legend,
    log_ticks,
    panels_in_pairs,
)
from analysis.report.style import DASHED, INK
from analysis.report.tables import Cell, Table, value


# What stands on the horizontal axis: by the key of a setting, its name in the fits and its label.
QUANTITIES = {"N": "log10 N", "complexity": "complexity"}
LABELS = {
    "N": "Training strings N (log scale)",
    "complexity": "Complexity of the rule (positions that hang together)",
}
FITS_NOTE = (
    "Slopes of log10 tau by maximum likelihood with normal residuals, where censored runs count as later than "
    "their end (Tobit). Low to high: Wald, from the likelihood; too narrow with few runs. n/a: not determined."
)


def figure(varied: str, results: Results) -> Figure:
    """Both clocks of every run against what is varied ("N" or "complexity"), with the censored fit."""
    groups = panels_against(varied, results)
    drawing, panels = panels_in_pairs(list(groups), 2.5, "Optimiser step (log)", sharey=True)
    for axes, settings in zip(panels, groups.values(), strict=True):
        axes.set_yscale("log")
        if varied == "N":
            axes.set_xscale("log")
        for name in CLOCK_COLOURS:
            draw_clocks(axes, settings, results["runs"], varied, name)
            draw_fit(axes, results["fits"], settings, varied, name)
        values = sorted({setting[varied] for setting in settings})
        axes.set_xticks(values, [f"{each:g}" for each in values])
        axes.minorticks_off()
        axes.margins(x=0.14, y=0.16)
        log_ticks(axes.yaxis, *axes.get_ylim())
        axes.grid(axis="y")
    drawing.supxlabel(LABELS[varied], fontsize=11)
    entries = [
        key("rule learned", RULE_COLOUR, marker="o"),
        key("copying begins", MEMORY_COLOUR, marker="o"),
        key("later than the run", INK, "^", markerfacecolor="white"),
        key("fit", INK, linestyle=DASHED, linewidth=1.2),
    ]
    legend(drawing, entries, handlelength=1.6, fontsize=10)
    return drawing


def panels_against(varied: str, results: Results) -> dict[str, list[Entry]]:
    """Settings that differ in `varied` and share model, variant and the other of N and rule, by a title.

    Only those with two values of `varied`.
    """
    groups: dict[str, list[Entry]] = {}
    for setting in results["settings"]:
        other = rule_label(setting["rule"]) if varied == "N" else f"N={setting['N']}"
        groups.setdefault(f"{model_label(setting['model'])}, {other}{variant_label(setting)}", []).append(setting)
    return {title: group for title, group in groups.items() if len({setting[varied] for setting in group}) > 1}


def draw_clocks(axes: Axes, settings: Sequence[Entry], runs: dict[str, Entry], varied: str, name: str) -> None:
    """Dots for the runs, moved a little apart by clock, and a line through the observed medians."""
    shift, shade = -1 if name == RULE_NOVEL else 1, CLOCK_COLOURS[name]
    medians = []
    for setting in sorted(settings, key=lambda each: each[varied]):
        x = setting[varied] * 1.03**shift if varied == "N" else setting[varied] + 0.06 * shift
        for run in setting["runs"]:
            clock_mark(axes, runs[run]["clocks"][name], (x, None), shade, "^")
        if setting["clocks"][name]["median"] is not None:
            medians.append((x, setting["clocks"][name]["median"]))
    if medians:
        axes.plot(*zip(*medians, strict=True), color=shade, linewidth=2)


def draw_fit(axes: Axes, fits: Sequence[Entry], settings: Sequence[Entry], varied: str, name: str) -> None:
    first, quantity, shade = settings[0], QUANTITIES[varied], CLOCK_COLOURS[name]
    wanted = {
        "clock": name,
        "model": first["model"],
        "against": quantity,
        "fixed": first["rule"] if varied == "N" else f"N = {first['N']}",
    }
    fit = next((each for each in fits if wanted.items() <= each.items()), None)
    slope = fit and fit["slopes"][quantity]["slope"]
    if slope is None:
        return
    x = np.array(sorted({setting[varied] for setting in settings}), dtype=float)
    fitted = 10 ** (fit["intercept"] + slope * (np.log10(x) if varied == "N" else x))
    axes.plot(x, fitted, color=shade, linewidth=1.2, linestyle=DASHED)
    word = f"slope {slope:.2f}" if varied == "N" else f"\N{MULTIPLICATION SIGN}{10**slope:.1f} each"
    height = 0.03 if name == RULE_NOVEL else 0.13
    axes.text(0.97, height, word, transform=axes.transAxes, ha="right", color=shade, fontsize=9.5)


def fits_table(results: Results) -> Table:
    rows = []
    for i, fit in enumerate(results["fits"]):
        for quantity in fit["slopes"]:
            at = ("fits", str(i), "slopes", quantity)
            ends = ("slope", "low", "high", "bootstrap_low", "bootstrap_high")
            numbers = ("observed", "censored", "seeds")
            rows.append(
                [
                    Cell(model_label(fit["model"])),
                    Cell(fit["clock"]),
                    Cell(quantity),
                    Cell("the others in the fit" if fit["against"] == "all" else fit["fixed"]),
                    *(value(results, (*at, end), partial(fixed, decimals=2)) for end in ends),
                    *(value(results, ("fits", str(i), number), count) for number in numbers),
                ]
            )
    columns = ["Model", "Clock", "Against", "Fixed", "Slope", "Low", "High", "Bootstrap low", "Bootstrap high"]
    return Table("Fits", [*columns, "Observed", "Censored", "Seeds"], rows, FITS_NOTE)


def section(varied: str, title: str, caption: str) -> Section:
    return Section(
        name=f"against-{varied.lower()}",
        title=title,
        needs=[("settings",)],
        figure=partial(figure, varied),
        caption=lambda results: caption,
        drawable=lambda results: bool(panels_against(varied, results)),
    )


SIZE_SECTION = section(
    "N",
    "Clocks against the size of the training set",
    "Every dot is a run; lines join medians, dashes are fits that count unfinished clocks as censored.",
)
COMPLEXITY_SECTION = section(
    "complexity",
    "Clocks against the complexity of the rule",
    "The factor is the fitted growth of the clock for each unit of complexity.",
)
