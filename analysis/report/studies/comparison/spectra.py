"""The shape of updates: singular values beside noise, ranks, and the subspaces that they use."""

from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.criteria import LIKE_RANDOM
from analysis.report.numbers import count, fixed, percent, significant, times
from analysis.report.results import Results, label, lookup, methods, model_heading, pair_label
from analysis.report.section import Section
from analysis.report.sentences import join, sentence
from analysis.report.style import (
    DOTTED,
    FURTHER_COLOURS,
    GREY,
    INK,
    canvas,
    colour,
    dots,
    logarithmic,
    name_rows,
    row_offset,
)
from analysis.report.tables import Table, number_table


SIDES = {"left": "o", "right": "s"}
SIDE_NAMES = {"left": "outputs", "right": "inputs"}
# On a logarithmic axis, what is smaller stands at its edge.
SMALLEST = 1e-2
RANK = (
    "Of the update of one matrix: its squared norm over the square of its largest singular value, and the "
    "exponential of the entropy of the squared singular values' shares. A random matrix of the same shape "
    "has nearly its whole rank. Directions stand out of noise if they are longer than the longest of a "
    "random matrix of that norm in 99 % of cases."
)
SHAPE = (
    ("Stable rank", "stable_rank", significant),
    ("Random", "random_stable_rank", significant),
    ("Effective rank", "effective_rank", significant),
    ("Random", "random_effective_rank", significant),
    ("Above noise", "above_noise", significant),
    ("In base's outputs", "base_overlap.left.share", percent),
    ("Random", "base_overlap.left.null", percent),
    ("In base's inputs", "base_overlap.right.share", percent),
    ("Random", "base_overlap.right.null", percent),
)
OVERLAP = tuple(
    (heading, f"{side}.{key}", partial(fixed, decimals=4))
    for side, name in SIDE_NAMES.items()
    for heading, key in ((f"Overlap, {name}", "mean_square"), ("Random", "null"))
)


def sections() -> list[Section]:
    shared: dict[str, Any] = {"needs": [("spectra",)], "on_demand": True}
    return [
        Section(
            name="spectra",
            title="How far the updates stand out of noise",
            figure=noise_figure,
            caption=noise_caption,
            numbers=[shape_table],
            terms=lambda results: [("Stable and effective rank", RANK)],
            **shared,
        ),
        Section("ranks", "How many directions the updates use", figure=ranks_figure, caption=ranks_caption, **shared),
        Section(
            name="subspaces",
            title="Which directions they share",
            figure=subspaces_figure,
            caption=subspaces_caption,
            numbers=[subspaces_table],
            terms=lambda results: [("Overlap", overlap_meaning(results))],
            **shared,
        ),
    ]


def overlap_meaning(results: Results) -> str:
    return (
        "Mean squared cosine of the principal angles between the spaces of the "
        f"{count(results['spectra']['top'])} largest singular directions, and the share of an update's "
        "squared length inside the base's such space; over what random directions would have."
    )


def updates(results: Results) -> dict[str, Any]:
    """{method: the shape of its update}, where it was measured."""
    shapes = {method: lookup(results, "spectra", "checkpoints", method) for method in methods(results)}
    return {method: shape for method, shape in shapes.items() if shape}


def kinds_of(of_kinds: dict[str, Any]) -> dict[str, Any]:
    """{kind of matrix: its means}, of the kinds that moved."""
    return {kind: row for kind, row in of_kinds["per_kind"].items() if row}


def moved_kinds(results: Results) -> list[str]:
    """The kinds of matrix that any method moved."""
    return list(dict.fromkeys(kind for shape in updates(results).values() for kind in kinds_of(shape)))


def noise_figure(results: Results) -> Figure:
    """The largest singular values of every matrix of each update, over the largest of a random matrix of its norm."""
    shown = list(updates(results))
    figure, panels = canvas(3.3, 1, len(shown), sharey=True, squeeze=False)
    lowest, highest = 1.0, 1.0
    for axes, (method, shape) in zip(panels[0], updates(results).items(), strict=True):
        for matrix in shape["matrices"].values():
            if matrix["norm"] > 0:
                values = np.array(matrix["singular_values"]) / matrix["random_edge"]
                values = values[values > SMALLEST]
                lowest, highest = min(lowest, *values), max(highest, *values)
                axes.plot(np.arange(1, len(values) + 1), values, color=colour(method, shown), linewidth=1, alpha=0.55)
        axes.axhline(1, color=INK, linewidth=1.3, linestyle=DOTTED)
        axes.set_title(label(method), weight="bold", color=colour(method, shown))
        axes.grid(axis="y")
    first = panels[0, 0]
    first.set_yscale("log")
    first.set_ylim(lowest / 1.2, highest * 1.2)
    logarithmic(first.yaxis, lowest / 1.2, highest * 1.2)
    first.set_ylabel("Singular value over the\nlargest of random noise (log scale)")
    figure.supxlabel("Singular value, from the largest, of each matrix", fontsize=11)
    return figure


def noise_caption(results: Results) -> str:
    """In how many matrices an update has directions that stand out of noise."""
    clauses = []
    for method, shape in updates(results).items():
        matrices = [matrix for matrix in shape["matrices"].values() if matrix["norm"] > 0]
        standing = sum(matrix["above_noise"] > 0 for matrix in matrices)
        largest = max((m["singular_values"][0] / m["random_edge"] for m in matrices), default=0.0)
        if standing:
            clauses.append(
                f"{label(method)} has directions longer than random noise of its length would have in "
                f"{count(standing)} of {count(len(matrices))} matrices, the longest {times(largest)} times as long"
            )
        else:
            clauses.append(f"in none of its {count(len(matrices))} matrices does {label(method)} stand out of noise")
    return sentence(clauses)


def shape_table(results: Results) -> Table:
    """Ranks and overlap with the base by kind of matrix."""
    rows = [
        ((label(method), kind), ("spectra", "checkpoints", method, "per_kind", kind))
        for method, shape in updates(results).items()
        for kind in kinds_of(shape)
    ]
    title = "Shape of the updates, means over the matrices of a kind"
    return number_table(results, title, [model_heading(results), "Kind of matrix"], SHAPE, rows)


def ranks_figure(results: Results) -> Figure:
    """Stable and effective rank of the updates by kind of matrix, as shares of what a random matrix would have."""
    shown, kinds = list(updates(results)), moved_kinds(results)
    figure, axes = canvas(1.3 + 0.3 * len(kinds))
    for i, (method, shape) in enumerate(updates(results).items()):
        shade, rows = colour(method, shown), kinds_of(shape)
        for key, face in (("stable", "white"), ("effective", shade)):
            x = [row[f"{key}_rank"] / row[f"random_{key}_rank"] for row in rows.values()]
            y = [kinds.index(kind) + row_offset(i, len(shown)) for kind in rows]
            axes.plot(x, y, "o", color=shade, markerfacecolor=face, markersize=6.5)
    name_rows(axes, kinds, grid="y")
    axes.set_xlim(left=0)
    axes.axvline(1, color=INK, linewidth=1.3, linestyle=DOTTED)
    axes.set_xlabel("Rank as a share of a random matrix's (dotted: 1)")
    handles = dots([colour(method, shown) for method in shown])
    handles += [*dots([INK], markerfacecolor="white"), *dots([INK], markerfacecolor=INK)]
    names = [*map(label, shown), "stable rank", "effective rank"]
    figure.legend(handles, names, loc="outside upper left", ncols=len(names), handletextpad=0.1, columnspacing=1.2)
    return figure


def ranks_caption(results: Results) -> str:
    """How concentrated the updates are, against random matrices."""
    clauses = []
    for method, shape in updates(results).items():
        rows = kinds_of(shape).values()
        if rows:
            share = fmean(row["effective_rank"] / row["random_effective_rank"] for row in rows)
            how = " (like noise)" if like_random(share) else ""
            clauses.append(f"{percent(share, 0)} of a random matrix's{how} for {label(method)}")
    return sentence([f"averaged over kinds, the effective rank of the update is {join(clauses)}"])


def subspaces_figure(results: Results) -> Figure:
    """Overlap of the updates' top singular directions with each other, and of the updates with the base's.

    Both as multiples of what random directions would have, on a logarithmic axis.
    """
    kinds, pairs = moved_kinds(results), lookup(results, "spectra", "pairs") or {}
    method_colours = {method: colour(method, list(updates(results))) for method in updates(results)}
    pair_colours = {pair: FURTHER_COLOURS[i % len(FURTHER_COLOURS)] for i, pair in enumerate(pairs)}
    figure, panels = canvas(1.6 + 0.3 * len(kinds), 1, 2 if pairs else 1, sharey=True, squeeze=False)
    draw_overlaps(panels[0, -1], with_base(results), kinds, method_colours)
    panels[0, -1].set_title("with the base")
    if pairs:
        draw_overlaps(panels[0, 0], with_each_other(results), kinds, pair_colours)
        panels[0, 0].set_title("with each other")
    name_rows(panels[0, 0], kinds, grid="y")
    figure.supxlabel("Overlap of top directions over that of random ones (log scale)", fontsize=11)
    handles = dots([*method_colours.values(), *pair_colours.values()])
    for marker in SIDES.values():
        handles += dots([GREY], marker=marker)
    names = [*map(label, method_colours), *map(pair_label, pair_colours), *SIDE_NAMES.values()]
    figure.legend(handles, names, loc="outside upper left", ncols=len(names), handletextpad=0.1, columnspacing=1.1)
    return figure


def with_base(results: Results) -> dict[str, dict[str, dict[str, float]]]:
    """{method: {kind: {side: share of the update in the base's top directions, over that of random ones}}}."""
    return {
        method: {
            kind: {side: row["base_overlap"][side]["share"] / row["base_overlap"][side]["null"] for side in SIDES}
            for kind, row in kinds_of(shape).items()
        }
        for method, shape in updates(results).items()
    }


def with_each_other(results: Results) -> dict[str, dict[str, dict[str, float]]]:
    """{pair: {kind: {side: overlap of the top directions of two updates, over that of random ones}}}."""
    return {
        pair: {
            kind: {side: row[side]["mean_square"] / row[side]["null"] for side in SIDES}
            for kind, row in kinds_of(shared).items()
        }
        for pair, shared in (lookup(results, "spectra", "pairs") or {}).items()
    }


def draw_overlaps(
    axes: Axes, ratios: dict[str, dict[str, dict[str, float]]], kinds: Sequence[str], colours: dict[str, str]
) -> None:
    sizes = [size for of_one in ratios.values() for row in of_one.values() for size in row.values()]
    sizes = [max(size, SMALLEST) for size in sizes] or [1.0]
    low, high = min(0.5, min(sizes) / 1.3), max(2.0, max(sizes) * 1.3)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    logarithmic(axes.xaxis, low, high)
    for i, (name, of_one) in enumerate(ratios.items()):
        for side, marker in SIDES.items():
            x = [max(row[side], SMALLEST) for row in of_one.values()]
            y = [kinds.index(kind) + row_offset(i, len(ratios)) for kind in of_one]
            axes.plot(x, y, marker, color=colours[name], markersize=5.5, alpha=0.85)
    axes.axvline(1, color=INK, linewidth=1.3, linestyle=DOTTED)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)


def subspaces_caption(results: Results) -> str:
    """Whether updates share directions, and whether they lie in the base's top directions, more than by chance."""
    clauses = []
    for pair, rows in with_each_other(results).items():
        if rows:
            clauses.append(f"the top directions of {pair_label(pair)} overlap {against_chance(rows)}")
    for method, rows in with_base(results).items():
        if rows:
            clauses.append(f"{label(method)} lies in the base's top directions {against_chance(rows)}")
    top = lookup(results, "spectra", "top")
    return sentence(
        [f"of the {count(top)} largest directions of each matrix, averaged over kinds: {'; '.join(clauses)}"]
    )


def subspaces_table(results: Results) -> Table:
    rows = [
        ((pair_label(pair), kind), ("spectra", "pairs", pair, "per_kind", kind))
        for pair, shared in (lookup(results, "spectra", "pairs") or {}).items()
        for kind in kinds_of(shared)
    ]
    title = "Mean squared cosine between the top directions of two updates"
    return number_table(results, title, ["Pair", "Kind of matrix"], OVERLAP, rows)


def like_random(ratio: float) -> bool:
    return 1 / LIKE_RANDOM <= ratio <= LIKE_RANDOM


def against_chance(rows: dict[str, dict[str, float]]) -> str:
    """The mean over kinds and sides, in words. rows: {kind: {side: ratio to chance}}."""
    ratio = fmean(size for row in rows.values() for size in row.values())
    if like_random(ratio):
        return f"as random directions do ({significant(ratio, 2)} times)"
    return f"{significant(ratio, 2)} times as much as random directions"
