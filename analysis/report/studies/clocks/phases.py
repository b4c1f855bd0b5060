"""The start of copying against N on either side of the size at which the order of the clocks changes."""

from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.clocks.striking import MEMORY
from analysis.criteria import EQUAL_BITS, SLOPE_SIZES
from analysis.report.numbers import NOT_AVAILABLE, count, fixed
from analysis.report.results import Results
from analysis.report.section import Section, Terms
from analysis.report.studies.clocks.labels import Entry, model_label, rule_label
from analysis.report.studies.clocks.panels import (
    MEMORY_COLOUR,
    RULE_COLOUR,
    clock_mark,
    key,
    legend,
    log_ticks,
    panels_in_pairs,
)
from analysis.report.style import DASHED, FAINT, GREY, INK
from analysis.report.tables import Cell, Table, value


PHASE_COLOURS = {"copies": MEMORY_COLOUR, "rule": RULE_COLOUR, "unknown": GREY}
PHASE_LABELS = {"copies": "copies first", "rule": "rule first"}
# At most so many panels: those with most sizes.
PANELS = 6
CAPTION = (
    "Copying begins (tau_mem) against N; every mark is a run, coloured by the clock that struck first. Dashes: fits "
    "within a phase, censored runs as lower bounds. The grey band encloses the size at which the order changes, with "
    "its 95 % interval over seeds and samples. A line through both phases would measure the jump between them."
)
NOTE = (
    "Slopes of log10 tau_mem within a phase, by maximum likelihood with censored runs (Tobit); several rules of "
    "equally many valid strings share their slopes and have an intercept each. Low to high: bootstrap over seeds and "
    f"samples, Wald where there is none. A slope over fewer than {SLOPE_SIZES} sizes decides nothing."
)
BREAK_NOTE = (
    "Break: between which N copies cease to come first, at the geometric mean of these sizes; misplaced: runs on the "
    "wrong side of it. Jump: tau_mem on the rule's line over that on the copies' line, at the break; n/a: not "
    "determined."
)
CENSORED_NOTE = (
    "First: the clock that struck first, unknown if the run ended before that was decided. Censored by: what ended "
    "the run before it copied, so that copying is later than its last step, and not never."
)


def figure(results: Results) -> Figure:
    """tau_mem of every run against N, a panel for each setting."""
    entries = shown(results)
    drawing, panels = panels_in_pairs([title(entry) for entry in entries], 2.5, "Copying begins (step)", sharey=True)
    for axes, entry in zip(panels, entries, strict=True):
        axes.set_xscale("log")
        axes.set_yscale("log")
        _draw_break(axes, entry)
        for run in runs_of(results, entry):
            crossed = run["clocks"][MEMORY]
            clock_mark(axes, crossed, (run["N"], None), PHASE_COLOURS[run["first"]], "^")
        for phase in PHASE_LABELS:
            _draw_line(axes, entry, phase)
        axes.set_xticks(entry["sizes"], [f"{size}" for size in entry["sizes"]])
        axes.minorticks_off()
        axes.margins(x=0.1, y=0.12)
        log_ticks(axes.yaxis, *axes.get_ylim())
        axes.grid(axis="y")
    drawing.supxlabel("Training strings N (log scale)", fontsize=11)
    entries = [
        *(key(label, PHASE_COLOURS[phase], "o") for phase, label in PHASE_LABELS.items()),
        key("later than the run", INK, "^", markerfacecolor="white"),
        Patch(color=FAINT, label="order changes"),
    ]
    legend(drawing, entries, handletextpad=0.3)
    return drawing


def shown(results: Results) -> list[Entry]:
    """Settings at three sizes or more, those with most sizes first; all settings at two sizes if there are none."""
    entries = sorted(results["phases"], key=lambda entry: -len(entry["sizes"]))
    return ([entry for entry in entries if len(entry["sizes"]) >= SLOPE_SIZES] or entries)[:PANELS]


def title(entry: Entry) -> str:
    variant = f", {entry['variant']}" if entry["variant"] else ""
    return f"{model_label(entry['model'])}, {rule_label(entry['rule'])}{variant}"


def runs_of(results: Results, entry: Entry) -> list[Entry]:
    keys = ("model", "rule", "variant")
    return [run for run in results["runs"].values() if all(run[name] == entry[name] for name in keys)]


def _draw_break(axes: Axes, entry: Entry) -> None:
    between = entry["break"]
    if between:
        low, high = (between[f"bootstrap_{end}"] or between[end] for end in ("low", "high"))
        axes.axvspan(low, high, color=FAINT, alpha=0.7, linewidth=0)


def _draw_line(axes: Axes, entry: Entry, phase: str) -> None:
    fit = entry[f"{phase}_first"]
    slope = fit["slopes"].get("log10 N", {}).get("slope")
    if slope is None:
        return
    x = np.array([fit["sizes"][0], fit["sizes"][-1]], dtype=float)
    y = 10 ** (fit["intercepts"][entry["rule"]] + slope * np.log10(x))
    axes.plot(x, y, color=PHASE_COLOURS[phase], linewidth=1.2, linestyle=DASHED)
    height = 0.05 if phase == "rule" else 0.16
    word = f"slope {slope:.2f}"
    axes.text(0.97, height, word, transform=axes.transAxes, ha="right", color=PHASE_COLOURS[phase], fontsize=9.5)


def slopes_table(results: Results) -> Table:
    rows = []
    for section in ("pooled_phases", "phases"):
        for i, entry in enumerate(results[section]):
            for phase, label in PHASE_LABELS.items():
                fit = entry[f"{phase}_first"]
                for quantity in fit["slopes"]:
                    at = (section, str(i), f"{phase}_first")
                    kind = "" if fit["slopes"][quantity]["bootstrap_low"] is None else "bootstrap_"
                    ends = ("slope", f"{kind}low", f"{kind}high")
                    rows.append(
                        [
                            Cell(model_label(entry["model"])),
                            Cell(", ".join(map(rule_label, entry.get("rules") or [entry["rule"]]))),
                            Cell(entry.get("variant", "all together") or "usual"),
                            Cell(label),
                            Cell(quantity),
                            *(value(results, (*at, "slopes", quantity, end), two_decimals) for end in ends),
                            *(value(results, (*at, number), count) for number in ("observed", "censored")),
                            Cell(", ".join(map(str, fit["sizes"]))),
                        ]
                    )
    columns = ["Model", "Rules", "Variant", "Phase", "Against", "Slope", "Low", "High", "Copied", "Censored", "N"]
    return Table("Slopes of tau_mem within a phase", columns, rows, NOTE)


def breaks_table(results: Results) -> Table:
    rows = []
    for i, entry in enumerate(results["phases"]):
        if entry["break"] is None:
            phases = [PHASE_LABELS[phase] for phase in PHASE_LABELS if entry[f"{phase}_first"]["sizes"]]
            cells = [Cell(f"none: {phases[0] if phases else 'unknown'} at all sizes"), *[Cell(NOT_AVAILABLE)] * 5]
        else:
            at = ("phases", str(i), "break")
            ends = ("N", "low", "high", "bootstrap_low", "bootstrap_high", "misplaced")
            cells = [value(results, (*at, end), count) for end in ends]
        jump = [
            value(results, ("phases", str(i), "jump", end), partial(fixed, decimals=1))
            if entry["jump"]
            else Cell(NOT_AVAILABLE)
            for end in ("factor", "low", "high")
        ]
        rows.append([Cell(title(entry)), *cells, *jump])
    columns = ["Setting", "Break N", "Above", "Below", "Low", "High", "Misplaced", "Jump", "Jump low", "Jump high"]
    return Table("Where the order of the clocks changes", columns, rows, BREAK_NOTE)


def first_table(results: Results) -> Table:
    rows = []
    for name, run in results["runs"].items():
        at = ("runs", name)
        clocks = [value(results, (*at, "clocks", clock, "step"), count) for clock in ("tau_rule_novel", MEMORY)]
        rows.append(
            [
                Cell(name),
                Cell(run["first"]),
                *clocks,
                value(results, (*at, "steps"), count),
                Cell(run["memory_censored_by"] or ""),
            ]
        )
    columns = ["Run", "First", "Rule learned", "Copying begins", "Steps", "Copying censored by"]
    return Table("Which clock struck first", columns, rows, CENSORED_NOTE)


def terms(results: Results) -> Terms:
    return [
        ("Phase", "Copies first or rule first, by the clock that struck first in a run."),
        (
            "Equally large rules",
            f"Their log2 of valid strings lie within {EQUAL_BITS:g}: N over the entropy is equal too.",
        ),
    ]


two_decimals = partial(fixed, decimals=2)
SECTION = Section(
    name="phases",
    title="Copies first, rule first",
    needs=[("phases",)],
    figure=figure,
    caption=lambda results: CAPTION,
    drawable=lambda results: bool(results["phases"]),
    numbers=[slopes_table, breaks_table, first_table],
    terms=terms,
)
