"""Figures of a study of circuits: scores, faithfulness, transfer, and what post-training changed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.report.numbers import fixed
from analysis.report.results import Results, label
from analysis.report.style import INK, WIDTH, colour, logarithmic


PER_ROW = 3
# Direct attribution, what DFA makes of the source, what it must beat, and what knows nothing.
GROUPS = {
    "gold": "#222222",
    "in_distribution": "#0072b2",
    "near": "#0072b2",
    "zero_shot": "#0072b2",
    "best": "#0072b2",
    "mask_learning": "#009e73",
    "equal_compute": "#009e73",
    "mean_of_masks": "#009e73",
    "nearest_mask": "#009e73",
    "mean_of_gold": "#009e73",
    "nearest_gold": "#009e73",
    "depth_mean": "#9a9a9a",
    "random_w": "#9a9a9a",
    "permuted_w": "#9a9a9a",
    "scrambled_s": "#9a9a9a",
    "random_ranking": "#9a9a9a",
}
TASK_LABELS = {
    "ioi": "IOI",
    "copy_colour": "Copy colour",
    "addition": "Addition",
    "subtraction": "Subtraction",
    "greater_than": "Greater than",
    "docstring": "Docstring",
    "arc_easy": "ARC-Easy",
    "arc_challenge": "ARC-Challenge",
}


def task_label(task: str) -> str:
    """ "ioi_short" -> "IOI"; "arc_easy=FILE" -> "ARC-Easy"."""
    name = task.partition("=")[0].removesuffix("_short")
    return TASK_LABELS.get(name, name)


def grid(panels: int, height: float, per_row: int = PER_ROW, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure with `panels` axes, `per_row` beside each other, each `height` inches high."""
    columns = min(panels, per_row)
    rows = -(-panels // columns)
    figure = Figure(figsize=(WIDTH, rows * height + 0.5), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for spare in axes[panels:]:
        spare.set_visible(False)
    return figure, axes[:panels]


def node_grid(scores: Sequence[float], layers: int, heads: int) -> np.ndarray:
    """[layers, heads + 1] scores of the nodes after `input`: the heads of a layer, then its MLP."""
    return np.array(scores[1:]).reshape(layers, heads + 1)


def scores(results: Results, model: str) -> Figure:
    """Scores by layer and head, one map for each task, each on a scale of its own."""
    found = results["circuits"][model]
    figure, axes = grid(len(found["tasks"]), 0.75 + 0.17 * found["layers"], sharex=True, sharey=True)
    image = None
    for panel, (task, circuit) in zip(axes, found["tasks"].items(), strict=True):
        values = node_grid(circuit["scores"], found["layers"], found["heads"])
        image = node_map(panel, values / (np.abs(values).max() or 1.0), found["heads"])
        panel.set_title(task_label(task), weight="bold")
    label_node_maps(axes, found["layers"], found["heads"])
    figure.colorbar(
        image,
        ax=figure.axes,
        location="bottom",
        shrink=0.6,
        aspect=34,
        pad=0.02,
        label="Score, over the largest of the task",
    )
    return figure


def node_map(axes: Axes, values: np.ndarray, heads: int) -> Any:
    """Layers upwards; heads to the right, then, behind a gap, the MLP."""
    spaced = np.insert(values, heads, np.nan, axis=1)
    edge = 1.0 if values.size <= 120 else 0.3
    image = axes.pcolormesh(spaced, norm=Normalize(-1, 1), cmap="RdBu_r", edgecolors="white", linewidth=edge)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image


def label_node_maps(axes: Sequence[Axes], layers: int, heads: int) -> None:
    """Name layers and heads at the edges of maps that share their axes."""
    every = max(1, -(-layers // 8))
    shown = range(0, layers, every)
    for panel in axes:
        panel.set_yticks([layer + 0.5 for layer in shown], [str(layer) for layer in shown])
        panel.set_xticks([0.5, heads - 0.5, heads + 1.5], ["head 0", str(heads - 1), "MLP"])
        panel.tick_params(axis="x", labelsize=8)
        panel.label_outer()
    axes[0].set_ylabel("Layer")


def curves(results: Results) -> Figure:
    """Faithfulness of growing circuits, one panel for each task, one line for each model."""
    found = results["circuits"]
    tasks = list(dict.fromkeys(task for model in found.values() for task in model["tasks"]))
    figure, axes = grid(len(tasks), 1.75, sharex=True, sharey=True)
    for panel, task in zip(axes, tasks, strict=True):
        for model, circuits in found.items():
            if task in circuits["tasks"]:
                curve = circuits["tasks"][task]["faithfulness"]
                shade = colour(model, list(found))
                panel.fill_between(
                    curve["shares"], curve["f_low"], curve["f_high"], color=shade, alpha=0.14, linewidth=0
                )
                panel.plot(curve["shares"], curve["f"], color=shade, linewidth=1.6, label=model)
        panel.axhline(1, color="#8a8a8a", linestyle=(0, (2, 2)), linewidth=1)
        panel.set_title(task_label(task), weight="bold")
        panel.set_xscale("log")
        panel.grid(axis="y")
        logarithmic(panel.xaxis, 0.001, 1.0)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
        panel.label_outer()
    figure.supxlabel("Nodes kept (% of all, log scale)", fontsize=11)
    figure.supylabel("Faithfulness f", fontsize=11)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=3, handlelength=1.2, fontsize=10)
    return figure


def transfer(results: Results, pair: str) -> Figure:
    """CPR of every ranking, mean over tasks and each task as a small point; the presets beside each other."""
    presets = results["transfer"][pair]["presets"]
    names = [row for row in GROUPS if any(row in preset["averages"] for preset in presets.values())]
    figure = Figure(figsize=(WIDTH, 1.1 + 0.27 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(presets), sharey=True, squeeze=False).flat
    for axes, (name, preset) in zip(panels, presets.items(), strict=True):
        policy = preset["input_policy"]
        floors = [task["floor"][policy] for task in preset["tasks"].values()]
        axes.axvline(np.mean(floors), color="#8a8a8a", linestyle=(0, (2, 2)), linewidth=1.2)
        for y, row in enumerate(names):
            if row in preset["averages"]:
                each = [
                    task["rows"][row][policy]["cpr"]["mean"]
                    for task in preset["tasks"].values()
                    if row in task["rows"]
                ]
                axes.plot(each, [y] * len(each), "|", color=GROUPS[row], alpha=0.5, markersize=9)
                axes.plot(preset["averages"][row][policy]["cpr"], y, "o", color=GROUPS[row], markersize=7)
        axes.set_title(f"{name} (input {'ranked' if policy == 'ranked' else 'kept'})", weight="bold")
        axes.set_xlabel("CPR")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.set_yticks(range(len(names)), [row_label(row) for row in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
    return figure


def row_label(row: str) -> str:
    """A row of the transfer table in a few words."""
    short = {
        "gold": "Direct attribution",
        "in_distribution": "DFA, same task",
        "near": "DFA, paired task",
        "zero_shot": "DFA, zero-shot",
        "best": "DFA, best of these",
        "random_w": "Untrained map",
        "permuted_w": "Permuted map",
        "scrambled_s": "Scrambled source",
        "depth_mean": "Same depth",
        "mask_learning": "Learned mask",
        "mean_of_masks": "Mean mask of others",
        "nearest_mask": "Mask of nearest task",
        "mean_of_gold": "Mean direct of others",
        "nearest_gold": "Direct of nearest task",
        "equal_compute": "Direct, equal compute",
        "random_ranking": "Random ranking",
    }
    return short.get(row, row)


def pair_name(pair: str) -> str:
    return "\N{EN DASH}".join(label(name) for name in pair.split("|"))


def overlap(results: Results) -> Figure:
    """Likeness of two models' circuits beside the null, for nodes and edges, by task and pair."""
    tasks = results["change"]["tasks"]
    pairs = list(next(iter(tasks.values()))["overlap"])
    figure = Figure(figsize=(WIDTH, 1.3 + 0.24 * len(tasks) * (len(pairs) + 1)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, level in zip(panels, ("nodes", "edges"), strict=True):
        y, places = 0, []
        for result in tasks.values():
            for pair in pairs:
                entry = result["overlap"][pair][level]["spearman"]
                axes.plot(
                    [entry["null_low"], entry["null_high"]],
                    [y, y],
                    color="#c4c4c4",
                    linewidth=7,
                    solid_capstyle="butt",
                )
                axes.plot(entry["null"] + entry["difference"], y, "o", color=INK, markersize=5.5)
                places.append((y, pair_name(pair)))
                y += 1
            y += 1
        axes.set_title(level.capitalize(), weight="bold")
        axes.set_yticks([at for at, _ in places], [name for _, name in places])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(y - 1.2, -1.4)
        axes.grid(axis="x")
        axes.set_xlabel("Rank correlation of scores")
        axes.set_xlim(right=1.02)
    step = len(pairs) + 1
    for number, task in enumerate(tasks):
        panels[0].text(
            0,
            number * step - 0.75,
            task_label(task),
            weight="bold",
            fontsize=10,
            transform=panels[0].get_yaxis_transform(),
        )
    return figure


def cross_faithfulness(results: Results) -> Figure:
    """CPR of the circuit of each model (rows) in each model (columns), one map for each task."""
    tasks, models = results["change"]["tasks"], results["change"]["models"]
    figure, axes = grid(len(tasks), 1.0 + 0.33 * len(models), sharey=True)
    for panel, (task, result) in zip(axes, tasks.items(), strict=True):
        values = np.array([[result["cross_faithfulness"][one][other]["cpr"] for other in models] for one in models])
        panel.pcolormesh(values, cmap="Blues", norm=Normalize(0, max(1.0, values.max())), edgecolors="white")
        for row, column in np.ndindex(values.shape):
            dark = values[row, column] > 0.6 * max(1.0, values.max())
            panel.text(
                column + 0.5,
                row + 0.5,
                fixed(values[row, column], 2),
                ha="center",
                va="center",
                fontsize=9.5,
                color="white" if dark else "black",
            )
        names = [label(name) for name in models]
        panel.set_xticks([i + 0.5 for i in range(len(models))], names, rotation=30, ha="right", fontsize=9)
        panel.set_yticks([i + 0.5 for i in range(len(models))], names, fontsize=9)
        panel.set_ylim(len(models), 0)
        panel.tick_params(length=0)
        panel.set_title(task_label(task), weight="bold")
        for spine in panel.spines.values():
            spine.set_visible(False)
    figure.supxlabel("run in", fontsize=11)
    figure.supylabel("circuit of", fontsize=11)
    return figure


def transplants(results: Results) -> Figure:
    """Logit difference of a receiver with the donor's best nodes in it, from none to all."""
    tasks = results["change"]["tasks"]
    base = results["change"]["models"][0]
    figure, axes = grid(len(tasks), 2.1, sharex=True)
    for panel, (task, result) in zip(axes, tasks.items(), strict=True):
        for direction, entry in result["transplant"].items():
            donor, receiver = direction.split(">")
            if receiver != base:
                continue
            shade = colour(donor, list(results["change"]["models"]))
            sizes = np.array([0, *entry["sizes"]]) / entry["sizes"][-1] * 100
            panel.plot(
                sizes,
                [entry["receiver"], *entry["circuits"]],
                color=shade,
                marker="o",
                markersize=3.5,
                label=f"{label(donor)} into {label(base)}",
            )
            panel.axhline(entry["donor"], color=shade, linestyle=(0, (2, 2)), linewidth=1.2)
        panel.set_title(task_label(task), weight="bold")
        panel.grid(axis="y")
    axes[0].set_ylabel("Logit difference")
    figure.supxlabel("Donor's best nodes put into the receiver (% of all)", fontsize=11)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=2, handlelength=1.2, fontsize=10)
    return figure


def edge_change(results: Results) -> Figure:
    """Share of the change of edge scores that begins in each layer, for every post-trained model."""
    found = results["change"]["lora"]
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(found)
    for i, (name, entry) in enumerate(found.items()):
        shade = colour(name, list(found))
        layers = np.arange(len(entry["change"]))
        at = layers + (i - (len(found) - 1) / 2) * width
        axes.bar(at, 100 * np.array(entry["change"]), 0.9 * width, color=shade, label=label(name))
        for layer in entry["critical"]:
            axes.annotate(
                "critical",
                (at[layer], 100 * entry["change"][layer]),
                xytext=(0, 3),
                ha="center",
                textcoords="offset points",
                fontsize=9,
                color=shade,
            )
    axes.margins(y=0.16)
    axes.set_xticks(layers if len(layers) <= 16 else layers[:: -(-len(layers) // 12)])
    axes.set_xlabel("Layer in which the edge begins")
    axes.set_ylabel("Share of change (%)")
    axes.grid(axis="y")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(found), handlelength=0.9, handleheight=0.9)
    return figure


def migrations(results: Results) -> Figure:
    """What I + delta adds to the CPR of the old model's ranking in the new model, mean over tasks and task by task."""
    found = results["change"]["migration"]
    figure = Figure(figsize=(WIDTH, 1.0 + 0.34 * len(found)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    base = results["change"]["models"][0]
    for y, (direction, entry) in enumerate(found.items()):
        shade = "#9a9a9a" if direction == f"{base}>{base}" else INK
        gains = [task["gain"] for task in entry["tasks"].values()]
        left.barh(y, entry["delta"], 0.6, color=shade)
        right.plot(gains, [y] * len(gains), "|", color=shade, alpha=0.5, markersize=10)
        right.plot(np.mean(gains), y, "o", color=shade, markersize=7)
    left.set_yticks(range(len(found)), [direction_label(direction) for direction in found])
    left.tick_params(axis="y", length=0)
    left.set_ylim(len(found) - 0.4, -0.6)
    left.set_xlabel("Size of delta")
    right.set_xlabel("Gain in CPR")
    right.axvline(0, color="#8a8a8a", linewidth=1.2)
    for axes in (left, right):
        axes.grid(axis="x")
    return figure


def direction_label(direction: str) -> str:
    """ "base>es" -> "base to ES"; "base>base" -> "base to itself (null)"."""
    one, other = direction.split(">")
    return f"{label(one)} to itself (null)" if one == other else f"{label(one)} to {label(other)}"


def intensity(results: Results) -> Figure:
    """Activation intensity, entropy and kurtosis of every model, with intervals."""
    found = results["change"]["intensity"]
    figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, (name, title) in zip(
        panels,
        (("intensity", "Intensity"), ("entropy", "Entropy (nats)"), ("kurtosis", "Excess kurtosis")),
        strict=True,
    ):
        for x, (model, entry) in enumerate(found.items()):
            shade = colour(model, list(found))
            below, above = entry[name] - entry[f"{name}_low"], entry[f"{name}_high"] - entry[name]
            axes.errorbar(x, entry[name], [[below], [above]], fmt="o", color=shade, capsize=4)
        axes.set_xticks(range(len(found)), [label(model) for model in found], rotation=30, ha="right", fontsize=9)
        axes.set_xlim(-0.6, len(found) - 0.4)
        axes.set_title(title, weight="bold")
        axes.grid(axis="y")
    return figure
