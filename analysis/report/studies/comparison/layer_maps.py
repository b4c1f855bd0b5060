"""Figures with one cell for each layer and kind of matrix."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from analysis.report.results import OUTSIDE_LAYERS, in_order
from analysis.report.style import NO_VALUE, canvas, only_cells


# Numbers are written into the cells of maps with at most this many columns.
ANNOTATED_COLUMNS = 6
# Maps with more columns than this stand below each other instead of beside each other.
COLUMNS_BESIDE = 12

Cells = Mapping[str, Mapping[str, float | None]]


def layer_maps(
    maps: Mapping[str, Cells], scale: Normalize, colours: str, write: Callable[[float], str]
) -> tuple[Figure, QuadMesh]:
    """One map for each entry of `maps`; kinds of matrix downwards, layers to the right."""
    layers = in_order({layer for cells in maps.values() for layer in cells})
    kinds = list(dict.fromkeys(kind for cells in maps.values() for layer in layers for kind in cells.get(layer, {})))
    rows, columns = (len(maps), 1) if len(layers) > COLUMNS_BESIDE else (1, len(maps))
    figure, panels = canvas(0.8 + rows * (0.75 + 0.28 * len(kinds)), rows, columns, sharey=True, squeeze=False)
    for axes, (title, cells) in zip(panels.flat, maps.items(), strict=True):
        values = grid([[cells.get(layer, {}).get(kind) for layer in layers] for kind in kinds])
        image = draw_cells(axes, values, scale, colours, write, 1.2 if len(layers) <= COLUMNS_BESIDE else 0.4)
        axes.set_title(title, weight="bold")
        name_cells(axes, layers, kinds)
        axes.set_xlabel("Layer")
    return figure, image


def grid(rows: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Cells as an array; null becomes NaN, which is not drawn."""
    return np.array([[np.nan if value is None else value for value in row] for row in rows], dtype=np.float64)


def log_scale(values: Sequence[float], empty: tuple[float, float]) -> LogNorm:
    """A scale over positive values; of `empty` if there are none."""
    low, high = (min(values), max(values)) if values else empty
    return LogNorm(low, high if high > low else 1.01 * low)


def draw_cells(
    axes: Axes, values: np.ndarray, scale: Normalize, colours: str, write: Callable[[float], str], line: float = 1.2
) -> QuadMesh:
    """Cells of `values` in colours, with the numbers where there is room. line: width of the lines between them."""
    if isinstance(scale, LogNorm):
        # What did not move has no place on a logarithmic scale.
        values = np.where(values > 0, values, np.nan)
    image = axes.pcolormesh(values, norm=scale, cmap=colours, edgecolors="white", linewidth=line)
    axes.set_facecolor(NO_VALUE)
    if values.shape[1] > ANNOTATED_COLUMNS:
        return image
    for row, column in np.argwhere(~np.isnan(values)):
        red, green, blue, _ = image.cmap(image.norm(values[row, column]))
        ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else "black"
        number = write(values[row, column])
        axes.text(column + 0.5, row + 0.5, number, ha="center", va="center", fontsize=9, color=ink)
    return image


def name_cells(axes: Axes, layers: Sequence[str], kinds: Sequence[str]) -> None:
    every = -(-len(layers) // COLUMNS_BESIDE)
    last = len(layers) - 1
    # The last column is always named, and nothing so close to it that the names would touch.
    shown = [i for i in range(last) if i % every == 0 and last - i >= min(every, 2)] + [last]
    names = ["none" if layers[i] == OUTSIDE_LAYERS else layers[i] for i in shown]
    axes.set_xticks([i + 0.5 for i in shown], names)
    axes.set_yticks([i + 0.5 for i in range(len(kinds))], kinds)
    only_cells(axes, len(kinds))
