"""Figures with one cell for each layer and kind of matrix."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from analysis.report.numbers import fixed, significant
from analysis.report.results import OUTSIDE_LAYERS, Results, in_order, label, lookup, methods, pair_label
from analysis.report.style import NO_VALUE, WIDTH, logarithmic


# Numbers are written into the cells of maps with at most this many columns.
ANNOTATED_COLUMNS = 6
# Maps with more columns than this stand below each other instead of beside each other.
COLUMNS_BESIDE = 12
# The scale of cosines reaches at least this far, so that chance does not look like structure.
SMALLEST_COSINE_SCALE = 0.1

Cells = Mapping[str, Mapping[str, float | None]]


def relative_change(results: Results) -> Figure:
    """Relative norm of each method's update by layer and kind of matrix, on one shared logarithmic colour scale."""
    maps = {}
    for method in methods(results):
        cells = lookup(results, "geometry", "checkpoints", method, "per_layer_kind")
        if cells:
            maps[label(method)] = {
                layer: {kind: _percent(entry["relative_norm"]) for kind, entry in row.items()}
                for layer, row in cells.items()
            }
    values = [value for cells in maps.values() for row in cells.values() for value in row.values() if value]
    low, high = (min(values), max(values)) if values else (0.1, 100.0)
    scale = LogNorm(low, high if high > low else 1.01 * low)
    figure, image = _maps(maps, scale, "viridis", lambda value: significant(value, 2))
    bar = figure.colorbar(
        image,
        ax=figure.axes,
        location="bottom",
        shrink=0.7,
        aspect=34,
        pad=0.02,
        label="Relative length of the update (%, log scale)",
    )
    logarithmic(bar.ax.xaxis, scale.vmin, scale.vmax)
    return figure


def cosine(results: Results) -> Figure:
    """Cosine between the updates of two methods by layer and kind of matrix."""
    pairs = lookup(results, "geometry", "cosine")
    maps = {pair_label(pair): entry["per_layer_kind"] for pair, entry in pairs.items() if entry}
    values = [abs(c) for cells in maps.values() for row in cells.values() for c in row.values() if c is not None]
    limit = max([SMALLEST_COSINE_SCALE, *values])
    figure, image = _maps(maps, Normalize(-limit, limit), "RdBu_r", lambda value: fixed(value, 2))
    figure.colorbar(
        image,
        ax=figure.axes,
        location="bottom",
        shrink=0.7,
        aspect=34,
        pad=0.02,
        label="Cosine between the two updates (\N{MINUS SIGN}1 to 1)",
    )
    return figure


def kl_matrices(results: Results) -> Figure:
    """KL divergence of each stage of a sequence on every task: against the stage before, and against base."""
    found = results["kl_matrices"]
    parts = {"incremental": "against the stage before", "cumulative": "against base"}
    stages = list(found["cumulative"])
    measured = list(dict.fromkeys(task for stage in stages for task in found["cumulative"][stage]))
    grids = {
        part: np.array(
            [[_number(lookup(found, part, stage, task, "per_token")) for task in measured] for stage in stages],
            dtype=np.float64,
        )
        for part in parts
    }
    positive = [value for grid in grids.values() for value in grid.flat if value > 0] or [1e-3, 1.0]
    scale = LogNorm(min(positive), max(positive) if max(positive) > min(positive) else 1.01 * min(positive))
    figure = Figure(figsize=(WIDTH, 1.9 + 2 * (0.5 + 0.32 * len(stages))), layout="constrained")
    for axes, (part, grid) in zip(figure.subplots(2, 1, sharex=True), grids.items(), strict=True):
        # What did not drift has no place on a logarithmic scale.
        image = axes.pcolormesh(
            np.where(grid > 0, grid, np.nan), norm=scale, cmap="viridis", edgecolors="white", linewidth=1.2
        )
        axes.set_facecolor(NO_VALUE)
        if len(measured) <= ANNOTATED_COLUMNS:
            _annotate(axes, np.where(grid > 0, grid, np.nan), image, lambda value: significant(value, 2))
        axes.set_title(f"{part.capitalize()}: {parts[part]}", weight="bold")
        axes.set_yticks([y + 0.5 for y in range(len(stages))], [label(stage) for stage in stages])
        axes.set_xticks([x + 0.5 for x in range(len(measured))], [label(task) for task in measured])
        axes.set_ylim(len(stages), 0)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    figure.axes[0].set_ylabel("After training")
    bar = figure.colorbar(
        image,
        ax=figure.axes,
        location="bottom",
        shrink=0.7,
        aspect=34,
        pad=0.03,
        label="KL divergence (nats per token, log scale)",
    )
    logarithmic(bar.ax.xaxis, scale.vmin, scale.vmax)
    return figure


def _maps(
    maps: Mapping[str, Cells], scale: Normalize, colours: str, write: Callable[[float], str]
) -> tuple[Figure, QuadMesh]:
    """One map for each entry of `maps`; kinds of matrix downwards, layers to the right."""
    layers = in_order({layer for cells in maps.values() for layer in cells})
    kinds = list(dict.fromkeys(kind for cells in maps.values() for layer in layers for kind in cells.get(layer, {})))
    rows, columns = (len(maps), 1) if len(layers) > COLUMNS_BESIDE else (1, len(maps))
    figure = Figure(figsize=(WIDTH, 0.8 + rows * (0.75 + 0.28 * len(kinds))), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    for axes, (title, cells) in zip(panels, maps.items(), strict=True):
        values = np.array(
            [[_number(cells.get(layer, {}).get(kind)) for layer in layers] for kind in kinds], dtype=np.float64
        )
        if isinstance(scale, LogNorm):
            # A matrix that did not move has no place on a logarithmic scale.
            values[values == 0] = np.nan
        image = axes.pcolormesh(
            values,
            norm=scale,
            cmap=colours,
            edgecolors="white",
            linewidth=1.2 if len(layers) <= COLUMNS_BESIDE else 0.4,
        )
        axes.set_facecolor(NO_VALUE)
        if len(layers) <= ANNOTATED_COLUMNS:
            _annotate(axes, values, image, write)
        axes.set_title(title, weight="bold")
        _name_cells(axes, layers, kinds)
        axes.set_xlabel("Layer")
    return figure, image


def _annotate(axes: Axes, values: np.ndarray, image: QuadMesh, write: Callable[[float], str]) -> None:
    for row, column in np.argwhere(~np.isnan(values)):
        red, green, blue, _ = image.cmap(image.norm(values[row, column]))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
        axes.text(
            column + 0.5,
            row + 0.5,
            write(values[row, column]),
            ha="center",
            va="center",
            fontsize=9,
            color="white" if dark else "black",
        )


def _name_cells(axes: Axes, layers: Sequence[str], kinds: Sequence[str]) -> None:
    every = -(-len(layers) // COLUMNS_BESIDE)
    last = len(layers) - 1
    # The last column is always named, and nothing so close to it that the names would touch.
    shown = [i for i in range(last) if i % every == 0 and last - i >= min(every, 2)] + [last]
    names = ["none" if layers[i] == OUTSIDE_LAYERS else layers[i] for i in shown]
    axes.set_xticks([i + 0.5 for i in shown], names)
    axes.set_yticks([i + 0.5 for i in range(len(kinds))], kinds)
    axes.set_ylim(len(kinds), 0)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
