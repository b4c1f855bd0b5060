"""How arms look in figures: colour, line and marker of each, the legend, and the rows of dots with intervals."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.report.results import Results
from analysis.report.studies.sequential.arms import arms, called
from analysis.report.studies.sequential.intervals import Interval
from analysis.report.style import COLOURS, FURTHER_COLOURS


METHOD_COLOURS = COLOURS | {"sft": FURTHER_COLOURS[0]}
# Arms of one method share its colour; the main arm has the first line and marker, its controls the next ones.
LINES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")
# Names up to this many letters stand three beside each other in a legend, and with another one in a line.
SHORT_NAME = 14


def look(results: Results, arm: str) -> tuple[str, Any, str]:
    """Colour, line style and marker of an arm."""
    method = results["arms"][arm]["method"]
    index = [other for other in arms(results) if results["arms"][other]["method"] == method].index(arm)
    return METHOD_COLOURS[method], LINES[index % len(LINES)], MARKERS[index % len(MARKERS)]


def legend(figure: Figure, results: Results) -> None:
    """All arms, above the axes of `figure`."""
    names, handles = arms(results), []
    for arm in names:
        shade, line, marker = look(results, arm)
        handles.append(Line2D([], [], color=shade, linestyle=line, marker=marker, markersize=5, linewidth=1.8))
    spacing = {"handlelength": 2.4, "columnspacing": 1.2, "ncols": _legend_columns(names)}
    figure.legend(handles, [called(arm) for arm in names], loc="outside upper left", fontsize=10, **spacing)


def legend_height(names: Sequence[str]) -> float:
    """Inches."""
    return 0.25 * -(-len(names) // _legend_columns(names))


def _legend_columns(names: Sequence[str]) -> int:
    return 3 if max(map(len, names)) <= SHORT_NAME else 2


def interval_dot(axes: Axes, interval: Interval, y: float, shade: str, marker: str) -> None:
    axes.plot([100 * interval["low"], 100 * interval["high"]], [y, y], color=shade, linewidth=2)
    axes.plot(100 * interval["value"], y, marker, color=shade, markersize=7)
