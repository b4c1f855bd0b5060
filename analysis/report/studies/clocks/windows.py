"""Both clocks of every setting and run, and the innovation window between them."""

from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.clocks.measure import MAIN_CLOCKS
from analysis.clocks.striking import CLOCKS, MEMORY, RULE_NOVEL
from analysis.report.figure_values import tell
from analysis.report.numbers import count, fixed, percent
from analysis.report.results import Results
from analysis.report.section import Section
from analysis.report.studies.clocks.labels import Entry, model_label, rule_label, setting_label, variant_label
from analysis.report.studies.clocks.panels import (
    CLOCK_COLOURS,
    MEMORY_COLOUR,
    RULE_COLOUR,
    STEPS,
    WINDOW_COLOUR,
    clock_mark,
    key,
    legend,
    steps_axis,
)
from analysis.report.studies.clocks.scaling import fits_table
from analysis.report.style import INK, NO_VALUE, canvas, colour_bar, name_rows, only_cells
from analysis.report.tables import Table, number_table


CAPTION = (
    "Rows are settings, dots are seeds, strokes their medians. The rule counts as learned when 90 % of the "
    "samples that are no copies obey it, at two evaluations in a row; copying begins when copies exceed matches "
    "with a control set by 10 % of the samples. The bar between is the innovation window. Arrows stand "
    "where a run ended before its clock struck."
)
MAP_CAPTION = (
    "Width between the median clocks in factors of ten; a bound where one of them is censored. Below it the share of "
    "runs whose own window is open."
)
SETTINGS_NOTE = (
    "Steps; n/a: censored. Medians after Kaplan and Meier; intervals by bootstrap over seeds and samples. Width: "
    "median over the seeds whose clocks both struck. Yield: new, valid and distinct samples at the best "
    "evaluation, median over seeds."
)
two_decimals = partial(fixed, decimals=2)


def by_model(results: Results) -> dict[str, list[Entry]]:
    settings: dict[str, list[Entry]] = {}
    for setting in results["settings"]:
        settings.setdefault(setting["model"], []).append(setting)
    return settings


def figure(results: Results) -> Figure:
    """Every setting as a row: the median window as a bar, the clocks of every seed as dots, on one axis of steps."""
    models = by_model(results)
    heights = [len(settings) for settings in models.values()]
    height = 1.1 + 0.36 * sum(heights) + 0.42 * len(models)
    drawing, grid = canvas(height, len(models), sharex=True, squeeze=False, height_ratios=heights)
    for axes, (model, settings) in zip(grid[:, 0], models.items(), strict=True):
        for y, setting in enumerate(settings):
            window_row(axes, y, setting, results["runs"])
        name_rows(axes, [setting_label(setting) for setting in settings], grid="x")
        axes.set_title(model_label(model), weight="bold")
        steps_axis(axes)
    grid[-1, 0].set_xlabel(STEPS)
    entries = [
        key("rule learned", RULE_COLOUR, "o"),
        key("copying begins", MEMORY_COLOUR, "o"),
        Patch(color=WINDOW_COLOUR, alpha=0.3, label="window"),
        key("later than the run", INK, ">", markerfacecolor="white"),
    ]
    legend(drawing, entries, handletextpad=0.3, fontsize=10)
    return drawing


def window_row(axes: Axes, y: float, setting: Entry, runs: dict[str, Entry]) -> None:
    rule, memory = (setting["clocks"][name] for name in CLOCK_COLOURS)
    start, end = rule["median"], memory["median"] if memory["median"] is not None else memory["at_least"]
    if start is not None and end is not None and end > start:
        axes.barh(y, end - start, 0.62, left=start, color=WINDOW_COLOUR, alpha=0.28, linewidth=0)
    for offset, (name, shade) in zip((-0.14, 0.14), CLOCK_COLOURS.items(), strict=True):
        for run in setting["runs"]:
            clock_mark(axes, runs[run]["clocks"][name], (None, y + offset), shade, ">")
        middle = setting["clocks"][name]["median"]
        if middle is not None:
            axes.plot([middle, middle], [y - 0.34, y + 0.34], color=shade, linewidth=2.4, solid_capstyle="butt")


def window_map(results: Results) -> Figure:
    """Width of the window by N and rule (and variant of the model), one map for each model."""
    models = by_model(results)
    rows = {model: list(dict.fromkeys(map(map_row, settings))) for model, settings in models.items()}
    heights = [len(names) for names in rows.values()]
    height = 0.9 + sum(0.75 + 0.52 * each for each in heights)
    drawing, grid = canvas(height, len(models), squeeze=False, height_ratios=heights)
    widths = [abs(width) for width, _ in map(shown_width, results["settings"]) if width is not None]
    limit = max([1.0, *widths])
    scale = Normalize(-limit, limit)
    shades = LinearSegmentedColormap.from_list("window", [MEMORY_COLOUR, "#f7f7f7", WINDOW_COLOUR])
    for axes, (model, settings) in zip(grid[:, 0], models.items(), strict=True):
        names, sizes = rows[model], sorted({setting["N"] for setting in settings})
        values = np.full((len(names), len(sizes)), np.nan)
        for setting in settings:
            row, column = names.index(map_row(setting)), sizes.index(setting["N"])
            width, word = shown_width(setting)
            values[row, column] = np.nan if width is None else width
            style = {"fontsize": 9.5, "linespacing": 1.15, "color": INK if width is None else "black"}
            axes.text(column + 0.5, row + 0.5, word, ha="center", va="center", **style)
            where = f"{model_label(model)}, {names[row]}, N = {setting['N']}: width in factors of 10 {word}"
            tell(axes, model_label(model), (column + 0.5, row + 0.5), " ".join(where.split()))
        image = axes.pcolormesh(values, norm=scale, cmap=shades, edgecolors="white", linewidth=1.5)
        axes.set_facecolor(NO_VALUE)
        axes.set_xticks(np.arange(len(sizes)) + 0.5, [f"{size}" for size in sizes])
        axes.set_yticks(np.arange(len(names)) + 0.5, names)
        only_cells(axes, len(names))
        axes.set_title(model_label(model), weight="bold")
    grid[-1, 0].set_xlabel("Training strings N")
    colour_bar(drawing, image, "Width in factors of 10 in steps")
    return drawing


def map_row(setting: Entry) -> str:
    return rule_label(setting["rule"]) + variant_label(setting).replace(", ", ",\n", 1)


def shown_width(setting: Entry) -> tuple[float | None, str]:
    """(width that colours the cell, its words): the width between median clocks, or the bound that is known."""
    rule, memory = (setting["clocks"][name] for name in CLOCK_COLOURS)
    share = f"{setting['open']} of {len(setting['runs'])} open"
    start, end = rule["median"], memory["median"]
    width = None
    if start is not None or end is not None:
        width = float(np.log10((end or memory["at_least"]) / (start or rule["at_least"])))
    if start is not None and end is not None:
        return width, f"{width:+.2f}\n{share}"
    if start is not None and width > 0:
        return width, f"> {width:+.2f}\n{share}"
    if end is not None and width <= 0:
        return width, f"< {width:+.2f}\n{share}"
    return None, f"unknown\n{share}"


def settings_table(results: Results) -> Table:
    columns = [
        ("N", "N", count),
        ("Parameters", "parameters", count),
        *(
            (heading, f"clocks.{name}.{end}", count)
            for name in MAIN_CLOCKS
            for heading, end in ((name, "median"), ("Low", "low"), ("High", "high"))
        ),
        ("Open", "share_open", partial(percent, decimals=0)),
        ("Width", "width_median", two_decimals),
        ("Yield", "yield_median", percent),
    ]
    rows = [
        ((model_label(setting["model"]), rule_label(setting["rule"]) + variant_label(setting)), ("settings", str(i)))
        for i, setting in enumerate(results["settings"])
    ]
    return number_table(results, "Clocks by setting", ["Model", "Rule"], columns, rows, SETTINGS_NOTE)


def every_clock_table(results: Results) -> Table:
    """What each clock says, because definitions that all make sense lie a factor of ten apart."""
    columns = [(name, f"clocks.{name}.step", count) for name in CLOCKS]
    columns.append(("Least held-out loss", "loss_minimum", count))
    rows = [((name,), ("runs", name)) for name in results["runs"]]
    return number_table(results, "Every clock of every run, in steps", ["Run"], columns, rows)


def runs_table(results: Results) -> Table:
    bounds = (("Width", "width"), ("At least", "at_least"), ("At most", "at_most"))
    columns = [
        *((heading, f"window.{bound}", two_decimals) for heading, bound in bounds),
        *(
            (heading, f"intervals.{name}.{end}", count)
            for name in (RULE_NOVEL, MEMORY)
            for heading, end in ((f"{name} low", 0), ("High", 1))
        ),
        ("Yield", "yield.per_sample", percent),
        ("Samples", "samples", count),
    ]
    rows = [((name, run["window"]["state"]), ("runs", name)) for name, run in results["runs"].items()]
    note = "Intervals by bootstrap over the samples drawn; n/a: censored."
    return number_table(results, "Windows of every run", ["Run", "Window"], columns, rows, note)


SECTION = Section(
    name="windows",
    title="Both clocks on one axis",
    needs=[("settings",)],
    figure=figure,
    caption=lambda results: CAPTION,
    numbers=[settings_table, fits_table, every_clock_table, runs_table],
)
MAP_SECTION = Section(
    name="window-map",
    title="Where the window is open",
    needs=[("settings",)],
    figure=window_map,
    caption=lambda results: MAP_CAPTION,
)
