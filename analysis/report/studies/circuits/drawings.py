"""Circuits drawn as graphs: nodes by layer, the strongest edges between them."""

import re
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from analysis.report.figure_values import tell
from analysis.report.numbers import significant
from analysis.report.results import Results, label
from analysis.report.section import Section
from analysis.report.studies.circuits.labels import models_of_change, of_tasks, task_label
from analysis.report.studies.circuits.panels import colour_bar, without_frame
from analysis.report.style import GREY, INK, canvas


HELPS, HINDERS = "#b2182b", "#2166ac"


def figure(results: Results, task: str) -> Figure:
    """One graph for each model, on shared scales of node and edge strength."""
    change, models = results["change"]["tasks"][task], models_of_change(results)
    layers, heads, circuits = change["layers"], change["heads"], change["circuits"]
    group = heads // circuits[models[0]]["key_value_heads"]
    scores = {model: dict(zip(change["nodes"], circuits[model]["scores"], strict=True)) for model in models}
    edges = {model: merged_edges(circuits[model]["top_edges"], group) for model in models}
    strongest_node = max(abs(score) for of in scores.values() for name, score in of.items() if name != "input")
    strongest_edge = max(abs(score) for of in edges.values() for score in of.values())
    shades = ScalarMappable(Normalize(-strongest_node, strongest_node), "RdBu_r")
    drawing, panels = canvas(1.6 + 0.62 * layers, 1, len(models), sharex=True, sharey=True, squeeze=False)
    for axes, model in zip(panels.flat, models, strict=True):
        axes.set_title(label(model), weight="bold")
        place = partial(_place, layers=layers, heads=heads)
        _draw_edges(axes, place, {edge: score / strongest_edge for edge, score in edges[model].items()})
        _draw_nodes(axes, place, scores[model], shades)
        axes.set_xlim(-1.5, heads + 1.3)
        axes.set_ylim(-1.3, layers + 0.35)
        axes.set_xticks([])
        axes.set_yticks(range(layers), [str(layer) for layer in range(layers)])
        without_frame(axes)
    drawing.axes[0].set_ylabel("Layer")
    colour_bar(drawing, shades, "Score of the node")
    return drawing


def merged_edges(top_edges: list[list[Any]], group: int) -> dict[tuple[str, str], float]:
    """{(writer, reader node): sum of scores}: queries, keys and values of a head as one edge.

    group: query heads to a key-value head; an edge to a key or value is split evenly among them.
    """
    merged: dict[tuple[str, str], float] = defaultdict(float)
    for writer, reader, score in top_edges:
        match = re.fullmatch(r"a(\d+)\.(?:h(\d+)\.q|kv(\d+)\.[kv])", reader)
        if match is None:
            merged[writer, reader] += score
        elif match[2] is not None:
            merged[writer, f"a{match[1]}.h{match[2]}"] += score
        else:
            for head in range(int(match[3]) * group, (int(match[3]) + 1) * group):
                merged[writer, f"a{match[1]}.h{head}"] += score / group
    return dict(merged)


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


def _draw_edges(axes: Axes, place: Callable[[str], tuple[float, float]], edges: dict[tuple[str, str], float]) -> None:
    """edges: {(writer, reader): score over the strongest of all models}. The strongest lie on top."""
    for (writer, reader), score in sorted(edges.items(), key=lambda edge: abs(edge[1])):
        strength = abs(score)
        look = {
            "linewidth": 0.3 + 3.2 * strength,
            "alpha": 0.15 + 0.7 * strength,
            "color": HELPS if score > 0 else HINDERS,
        }
        bow = {"arrowstyle": "-", "connectionstyle": "arc3,rad=0.12", "zorder": 1}
        axes.add_patch(FancyArrowPatch(place(writer), place(reader), **bow, **look))


def _draw_nodes(
    axes: Axes, place: Callable[[str], tuple[float, float]], scores: dict[str, float], shades: ScalarMappable
) -> None:
    """shades: the scale of colours for scores. `input` and `logits` are words in boxes."""
    box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": INK, "linewidth": 0.8}
    edge = {"markeredgecolor": GREY, "markeredgewidth": 0.7}
    for name in [*scores, "logits"]:
        x, y = place(name)
        if name in ("input", "logits"):
            axes.text(x, y, name, ha="center", va="center", fontsize=9, zorder=3, bbox=box)
        else:
            marker = "o" if name.startswith("a") else "s"
            axes.plot(x, y, marker, color=shades.to_rgba(scores[name]), markersize=8, zorder=2, **edge)
            tell(axes, axes.get_title(loc="left"), (x, y), f"{name}: score {significant(scores[name])}")


def caption(results: Results, task: str) -> str:
    """What is drawn."""
    edges = len(next(iter(of_tasks(results, "circuits")[task].values()))["top_edges"])
    return (
        f"Circles are heads, squares MLPs; the {edges} strongest edges, red where they help and blue where they "
        "hinder, queries, keys and values of a head as one. Colours and widths are on one scale for all models."
    )


def section(task: str) -> Section:
    title, needs = f"{task_label(task)}: the circuit before and after", [("change", "tasks", task, "circuits")]
    return Section(f"drawing-{task}", title, needs, partial(figure, task=task), partial(caption, task=task))
