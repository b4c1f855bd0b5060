"""Figures of the shape of updates: singular values, ranks, and the subspaces that they use."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.report.results import Results, label, lookup, methods, pair_label
from analysis.report.style import FURTHER_COLOURS, INK, WIDTH, colour, logarithmic


SIDES = {"left": "o", "right": "s"}
SIDE_NAMES = {"left": "outputs", "right": "inputs"}
# On a logarithmic axis, what is smaller stands at its edge.
SMALLEST = 1e-2


def spectra(results: Results) -> Figure:
    """The largest singular values of every matrix of each update, over the largest of a random matrix of its norm."""
    shown = [method for method in methods(results) if lookup(results, "spectra", "checkpoints", method)]
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    lowest, highest = 1.0, 1.0
    for axes, method in zip(panels, shown, strict=True):
        for matrix in results["spectra"]["checkpoints"][method]["matrices"].values():
            if matrix["norm"] > 0:
                values = np.array(matrix["singular_values"]) / matrix["random_edge"]
                values = values[values > SMALLEST]
                lowest, highest = min(lowest, *values), max(highest, *values)
                axes.plot(np.arange(1, len(values) + 1), values, color=colour(method, shown), linewidth=1, alpha=0.55)
        axes.axhline(1, color=INK, linewidth=1.3, linestyle=(0, (2, 2)))
        axes.set_title(label(method), weight="bold", color=colour(method, shown))
        axes.grid(axis="y")
    panels[0].set_yscale("log")
    panels[0].set_ylim(lowest / 1.2, highest * 1.2)
    logarithmic(panels[0].yaxis, lowest / 1.2, highest * 1.2)
    panels[0].set_ylabel("Singular value over the\nlargest of random noise (log scale)")
    figure.supxlabel("Singular value, from the largest, of each matrix", fontsize=11)
    return figure


def ranks(results: Results) -> Figure:
    """Stable and effective rank of the updates by kind of matrix, as shares of what a random matrix would have."""
    shown, kinds = _kinds(results)
    figure = Figure(figsize=(WIDTH, 1.3 + 0.3 * len(kinds)), layout="constrained")
    axes = figure.subplots()
    for i, method in enumerate(shown):
        shade = colour(method, shown)
        for key, face in (("stable", "white"), ("effective", shade)):
            points = [
                (row[f"{key}_rank"] / row[f"random_{key}_rank"], y)
                for y, kind in enumerate(kinds)
                if (row := lookup(results, "spectra", "checkpoints", method, "per_kind", kind))
            ]
            x, y = zip(*points, strict=True) if points else ((), ())
            offsets = [height + _offset(i, len(shown)) for height in y]
            axes.plot(x, offsets, "o", color=shade, markerfacecolor=face, markersize=6.5)
    _rows(axes, kinds)
    axes.set_xlim(left=0)
    axes.axvline(1, color=INK, linewidth=1.3, linestyle=(0, (2, 2)))
    axes.set_xlabel("Rank as a share of a random matrix's (dotted: 1)")
    handles = [Line2D([], [], color=colour(m, shown), marker="o", linestyle="") for m in shown]
    handles += [Line2D([], [], color=INK, marker="o", markerfacecolor=face, linestyle="") for face in ("white", INK)]
    names = [*map(label, shown), "stable rank", "effective rank"]
    figure.legend(handles, names, loc="outside upper left", ncols=len(names), handletextpad=0.1, columnspacing=1.2)
    return figure


def subspaces(results: Results) -> Figure:
    """Overlap of the updates' top singular directions with each other, and of the updates with the base's.

    Both as multiples of what random directions would have, on a logarithmic axis.
    """
    shown, kinds = _kinds(results)
    pairs = list(lookup(results, "spectra", "pairs") or {})
    figure = Figure(figsize=(WIDTH, 1.6 + 0.3 * len(kinds)), layout="constrained")
    beside = 2 if pairs else 1
    panels = figure.subplots(1, beside, sharey=True, squeeze=False)[0]
    with_base = {
        (method, side): [
            (row["base_overlap"][side]["share"] / row["base_overlap"][side]["null"], y)
            for y, kind in enumerate(kinds)
            if (row := lookup(results, "spectra", "checkpoints", method, "per_kind", kind))
        ]
        for method in shown
        for side in SIDES
    }
    _overlaps(panels[-1], with_base, {method: colour(method, shown) for method in shown})
    panels[-1].set_title("with the base")
    if pairs:
        with_each_other = {
            (pair, side): [
                (row[side]["mean_square"] / row[side]["null"], y)
                for y, kind in enumerate(kinds)
                if (row := lookup(results, "spectra", "pairs", pair, "per_kind", kind))
            ]
            for pair in pairs
            for side in SIDES
        }
        _overlaps(panels[0], with_each_other, _pair_colours(pairs))
        panels[0].set_title("with each other")
    _rows(panels[0], kinds)
    figure.supxlabel("Overlap of top directions over that of random ones (log scale)", fontsize=11)
    handles = [Line2D([], [], color=colour(m, shown), marker="o", linestyle="") for m in shown]
    names = [label(method) for method in shown]
    for pair, shade in _pair_colours(pairs).items():
        handles.append(Line2D([], [], color=shade, marker="o", linestyle=""))
        names.append(pair_label(pair))
    handles += [Line2D([], [], color="#8a8a8a", marker=marker, linestyle="") for marker in SIDES.values()]
    names += [SIDE_NAMES[side] for side in SIDES]
    figure.legend(handles, names, loc="outside upper left", ncols=len(names), handletextpad=0.1, columnspacing=1.1)
    return figure


def _overlaps(axes: Axes, points: dict[tuple[str, str], list[tuple[float, int]]], colours: dict[str, str]) -> None:
    values = [max(value, SMALLEST) for of_one in points.values() for value, _ in of_one] or [1.0]
    low, high = min(0.5, min(values) / 1.3), max(2.0, max(values) * 1.3)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    logarithmic(axes.xaxis, low, high)
    names = list(colours)
    for (name, side), of_one in points.items():
        x = [max(value, SMALLEST) for value, _ in of_one]
        y = [height + _offset(names.index(name), len(names)) for _, height in of_one]
        axes.plot(x, y, SIDES[side], color=colours[name], markersize=5.5, alpha=0.85)
    axes.axvline(1, color=INK, linewidth=1.3, linestyle=(0, (2, 2)))
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)


def _kinds(results: Results) -> tuple[list[str], list[str]]:
    """Methods with spectra, and the kinds of matrix that any of them moved."""
    shown = [method for method in methods(results) if lookup(results, "spectra", "checkpoints", method)]
    kinds = {
        kind: None
        for method in shown
        for kind, row in results["spectra"]["checkpoints"][method]["per_kind"].items()
        if row
    }
    return shown, list(kinds)


def _pair_colours(pairs: Sequence[str]) -> dict[str, str]:
    return {pair: FURTHER_COLOURS[i % len(FURTHER_COLOURS)] for i, pair in enumerate(pairs)}


def _offset(index: int, count: int) -> float:
    return (index - (count - 1) / 2) * 0.5 / max(count, 1)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y")
