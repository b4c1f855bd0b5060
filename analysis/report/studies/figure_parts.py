"""What the figures of several chapters have in common."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.report.style import WIDTH


# Of lines that mark a value to compare with.
GREY = "#8a8a8a"
DOTTED = (0, (2, 2))


def canvas(height: float, rows: int = 1, columns: int = 1, **subplots: Any) -> tuple[Figure, Any]:
    """A figure of the page's width, and its axes as `Figure.subplots` gives them. height: in inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **subplots)


def name_rows(axes: Axes, names: Sequence[str], grid: str | None = None) -> None:
    """One row for each name, the first at the top. grid: along which axis lines are drawn, if any."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    if grid:
        axes.grid(axis=grid)
