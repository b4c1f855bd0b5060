"""What the figures of the clocks share: colours, axes of training steps, and panels for each run or stage."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.clocks.striking import MEMORY, RULE_NOVEL
from analysis.report.results import Results
from analysis.report.studies.clocks.labels import Entry, run_title, without_seed
from analysis.report.style import DOTTED, INK, canvas


RULE_COLOUR = "#0072b2"
MEMORY_COLOUR = "#d55e00"
WINDOW_COLOUR = "#009e73"
CLASS_COLOURS = {"train": MEMORY_COLOUR, "held_out": RULE_COLOUR, "violating": "#7a7a7a"}
CLASS_LABELS = {"train": "training", "held_out": "held-out", "violating": "one wrong"}
# The two clocks that figures show, and their colours.
CLOCK_COLOURS = {RULE_NOVEL: RULE_COLOUR, MEMORY: MEMORY_COLOUR}
STEPS = "Optimiser step (log scale)"


def key(label: str, shade: str = INK, mark: str | None = None, **style: Any) -> Line2D:
    """An entry of a legend: a line, or a mark."""
    marked = {"marker": mark, "linestyle": ""} if mark else {}
    return Line2D([], [], color=shade, label=label, **(marked | style))


def class_keys(kinds: Iterable[str] = CLASS_COLOURS) -> list[Line2D]:
    return [key(CLASS_LABELS[kind], CLASS_COLOURS[kind]) for kind in kinds]


def legend(figure: Figure, entries: Sequence[Line2D | Patch], **style: Any) -> None:
    """One line of entries above the figure."""
    usual = {"ncols": len(entries), "handlelength": 1.2, "columnspacing": 0.8, "fontsize": 9.5}
    figure.legend(handles=entries, loc="outside upper left", **(usual | style))


def numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def thousands(value: float) -> str:
    """300 -> "300", 3000 -> "3k"."""
    return f"{value / 1000:.3g}k" if value >= 1000 else f"{value:g}"


def steps_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    log_ticks(axes.xaxis, *axes.get_xlim())


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Ticks at 1, 2, 5 or at 1, 3 of a decade where there is room, written as 300 or 3k."""
    decades = np.log10(high / low)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.2 else (1, 3) if decades < 2.2 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: thousands(value)))
    axis.set_minor_formatter(NullFormatter())


def clock_mark(axes: Axes, crossed: Entry, at: tuple[float | None, float | None], shade: str, censored: str) -> None:
    """A dot where the clock struck, an open arrow where the run ended first. at: (x, y), None for the clock's time."""
    time = max(crossed["after"], 1) if crossed["step"] is None else crossed["step"]
    x, y = (time if place is None else place for place in at)
    if crossed["step"] is None:
        axes.plot(x, y, censored, markerfacecolor="white", markeredgecolor=shade, markersize=4.5)
    else:
        axes.plot(x, y, "o", color=shade, markersize=4.5, alpha=0.7, markeredgewidth=0)


def along_training(axes: Axes, run: Entry) -> None:
    """An axis of steps, with the two clocks as dotted lines and the window between them shaded. Call it last."""
    rule, memory = (run["clocks"][name] for name in CLOCK_COLOURS)
    for crossed, shade in zip((rule, memory), CLOCK_COLOURS.values(), strict=True):
        if crossed["step"] is not None:
            axes.axvline(crossed["step"], color=shade, linewidth=1, linestyle=DOTTED)
    end = memory["after"] if memory["step"] is None else memory["step"]
    if rule["step"] is not None and end > rule["step"]:
        axes.axvspan(rule["step"], end, color=WINDOW_COLOUR, alpha=0.13, linewidth=0)
    axes.grid(axis="y")
    steps_axis(axes)


def panels_in_pairs(titles: Sequence[str], height: float, ylabel: str, **subplots: Any) -> tuple[Figure, list[Axes]]:
    """A panel for each title, two in a row. height: of a row, in inches."""
    columns = min(2, len(titles))
    rows = -(-len(titles) // columns)
    figure, grid = canvas(0.75 + height * rows, rows, columns, squeeze=False, **subplots)
    for axes in grid.flat[len(titles) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(ylabel)
    panels = list(grid.flat)[: len(titles)]
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=10)
    return figure, panels


def panel_for_each(
    results: Results, runs: Iterable[str], height: float, ylabel: str, xlabel: str = "", sharey: bool = True
) -> tuple[Figure, list[Axes]]:
    """A panel for each run, two in a row."""
    titles = [run_title(results["runs"][name]) for name in runs]
    figure, panels = panels_in_pairs(titles, height, ylabel, sharey=sharey)
    figure.supxlabel(xlabel, fontsize=11)
    return figure, panels


def stages(measured: Entry, run: Entry) -> dict[str, int]:
    """Four measured steps: the first, tau_rule or after, the middle of the window, and the last."""
    steps = measured["steps"]
    rule, memory = (run["clocks"][name]["step"] for name in CLOCK_COLOURS)
    last = len(steps) - 1

    def first_after(step: float | None, fallback: int) -> int:
        return fallback if step is None else next((i for i, other in enumerate(steps) if other >= step), last)

    early = first_after(rule, last // 3)
    late = first_after(memory, max(2 * last // 3, min(early + 1, last)))
    names = ("start", "early" if rule is None else "rule", "late" if memory is None else "memory", "end")
    return dict(zip(names, (0, early, late, last), strict=True))


def stage_panels(
    results: Results, measured: dict[str, Entry], ylabel: str, xlabel: str, paint: Callable[[Axes, Entry, int], None]
) -> Figure:
    """A row for each run and a column for each stage of its training.

    paint: draws one measured step, given by its place, of what was measured of a run.
    """
    figure, grid = canvas(0.75 + 2.3 * len(measured), len(measured), 4, sharey=True, sharex=True, squeeze=False)
    for row, (name, part) in zip(grid, measured.items(), strict=True):
        run = results["runs"][name]
        for axes, (stage, i) in zip(row, stages(part, run).items(), strict=True):
            paint(axes, part, i)
            axes.set_title(f"{stage}\nstep {thousands(part['steps'][i])}", fontsize=9.5)
            axes.grid(axis="y")
        row[0].set_ylabel(f"{without_seed(run)}{ylabel}", fontsize=9.5)
    figure.supxlabel(xlabel, fontsize=11)
    return figure
