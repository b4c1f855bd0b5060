"""Circuits drawn as graphs: nodes by layer, the strongest edges between them."""

import re
from collections import defaultdict
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from analysis.report.results import Results, label
from analysis.report.style import INK, WIDTH


COLOURS = "RdBu_r"


def before_and_after(results: Results, task: str) -> Figure:
    """One graph for each model, on shared scales of node and edge strength."""
    result = results["change"]["tasks"][task]
    models = results["change"]["models"]
    layers, heads, nodes = result["layers"], result["heads"], result["nodes"]
    scores = {model: dict(zip(nodes, result["circuits"][model]["scores"], strict=True)) for model in models}
    edges = {
        model: merged_edges(result["circuits"][model]["top_edges"], heads, _group(result["circuits"], heads))
        for model in models
    }
    strongest_node = max(abs(score) for found in scores.values() for name, score in found.items() if name != "input")
    strongest_edge = max(abs(score) for found in edges.values() for score in found.values())
    figure = Figure(figsize=(WIDTH, 1.6 + 0.62 * layers), layout="constrained")
    panels = figure.subplots(1, len(models), sharex=True, sharey=True, squeeze=False).flat
    for axes, model in zip(panels, models, strict=True):
        _draw(axes, layers, heads, scores[model], strongest_node, edges[model], strongest_edge)
        axes.set_title(label(model), weight="bold")
    figure.colorbar(
        ScalarMappable(Normalize(-strongest_node, strongest_node), COLOURS),
        ax=figure.axes,
        location="bottom",
        shrink=0.6,
        aspect=34,
        pad=0.02,
        label="Score of the node",
    )
    return figure


def merged_edges(top_edges: list[list[Any]], heads: int, group: int) -> dict[tuple[str, str], float]:
    """{(writer, reader node): sum of scores}: queries, keys and values of a head as one edge.

    group: query heads to a key-value head; an edge to a key or value is split evenly among them.
    """
    found: dict[tuple[str, str], float] = defaultdict(float)
    for writer, reader, score in top_edges:
        match = re.fullmatch(r"a(\d+)\.(?:h(\d+)\.q|kv(\d+)\.[kv])", reader)
        if match is None:
            found[writer, reader] += score
        elif match[2] is not None:
            found[writer, f"a{match[1]}.h{match[2]}"] += score
        else:
            for head in range(int(match[3]) * group, (int(match[3]) + 1) * group):
                found[writer, f"a{match[1]}.h{head}"] += score / group
    return dict(found)


def _group(circuits: dict[str, Any], heads: int) -> int:
    """Query heads to a key-value head, from the readers that are named."""
    return heads // next(iter(circuits.values()))["key_value_heads"]


def _place(name: str, layers: int, heads: int) -> tuple[float, float]:
    """(x, y) of a node: heads side by side, the MLP above them to the right."""
    if name == "input":
        return heads / 2, -0.9
    if name == "logits":
        return heads / 2, layers - 0.1
    head = re.fullmatch(r"a(\d+)\.h(\d+)", name)
    if head is not None:
        return float(head[2]), float(head[1])
    return heads + 0.3, int(name[1:]) + 0.4


def _draw(
    axes: Axes,
    layers: int,
    heads: int,
    scores: dict[str, float],
    strongest_node: float,
    edges: dict[tuple[str, str], float],
    strongest_edge: float,
) -> None:
    shades, scale = ScalarMappable(Normalize(-strongest_node, strongest_node), COLOURS), (-1.5, heads + 1.3)
    for (writer, reader), score in sorted(edges.items(), key=lambda edge: abs(edge[1])):
        strength = abs(score) / strongest_edge
        axes.add_patch(
            FancyArrowPatch(
                _place(writer, layers, heads),
                _place(reader, layers, heads),
                arrowstyle="-",
                connectionstyle="arc3,rad=0.12",
                linewidth=0.3 + 3.2 * strength,
                alpha=0.15 + 0.7 * strength,
                color="#b2182b" if score > 0 else "#2166ac",
                zorder=1,
            )
        )
    for name in [*scores, "logits"]:
        x, y = _place(name, layers, heads)
        if name in ("input", "logits"):
            box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": INK, "linewidth": 0.8}
            axes.text(x, y, name, ha="center", va="center", fontsize=9, zorder=3, bbox=box)
        else:
            marker = "o" if name.startswith("a") else "s"
            axes.plot(
                x,
                y,
                marker,
                color=shades.to_rgba(scores[name]),
                markeredgecolor="#8a8a8a",
                markersize=8,
                markeredgewidth=0.7,
                zorder=2,
            )
    axes.set_xlim(*scale)
    axes.set_ylim(-1.3, layers + 0.35)
    axes.set_xticks([])
    axes.set_yticks(range(layers), [str(layer) for layer in range(layers)])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if axes.get_subplotspec().is_first_col():
        axes.set_ylabel("Layer")
