"""Figures of several panels, one for each task or model."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from analysis.report.style import canvas


PER_ROW = 3


def grid(number: int, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure with `number` axes, up to three beside each other, each `height` inches high."""
    columns = min(number, PER_ROW)
    rows = -(-number // columns)
    figure, panels = canvas(rows * height + 0.5, rows, columns, squeeze=False, **options)
    axes = list(panels.flat)
    for spare in axes[number:]:
        spare.set_visible(False)
    return figure, axes[:number]


def legend_above(figure: Figure, axes: Axes, columns: int) -> None:
    """What is labelled in `axes`, for the whole figure."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=columns, handlelength=1.2, fontsize=10)


def colour_bar(figure: Figure, image: ScalarMappable, label: str) -> None:
    figure.colorbar(image, ax=figure.axes, location="bottom", shrink=0.6, aspect=34, pad=0.02, label=label)


def without_frame(axes: Axes) -> None:
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
