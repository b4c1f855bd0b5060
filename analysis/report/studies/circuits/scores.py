"""Which nodes of each model matter."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from analysis.report.numbers import percent
from analysis.report.results import Results, lookup
from analysis.report.section import Section, Terms
from analysis.report.studies.circuits.labels import task_label
from analysis.report.studies.circuits.panels import colour_bar, grid, without_frame


def figure(results: Results, model: str) -> Figure:
    """Scores by layer and head, one map for each task, each on a scale of its own."""
    circuits = results["circuits"][model]
    layers, heads = circuits["layers"], circuits["heads"]
    drawing, axes = grid(len(circuits["tasks"]), 0.75 + 0.17 * layers, sharex=True, sharey=True)
    image = None
    for panel, (task, circuit) in zip(axes, circuits["tasks"].items(), strict=True):
        # The heads of a layer, then its MLP; `input` stands before them.
        values = np.array(circuit["scores"][1:]).reshape(layers, heads + 1)
        image = _node_map(panel, values / (np.abs(values).max() or 1.0))
        panel.set_title(task_label(task), weight="bold")
    _name_nodes(axes, layers, heads)
    colour_bar(drawing, image, "Score, over the largest of the task")
    return drawing


def _node_map(axes: Axes, values: np.ndarray) -> ScalarMappable:
    """values: [layers, heads + 1]. Layers upwards; heads to the right, then, behind a gap, the MLP."""
    spaced = np.insert(values, values.shape[1] - 1, np.nan, axis=1)
    edge = 1.0 if values.size <= 120 else 0.3
    image = axes.pcolormesh(spaced, norm=Normalize(-1, 1), cmap="RdBu_r", edgecolors="white", linewidth=edge)
    without_frame(axes)
    return image


def _name_nodes(axes: Sequence[Axes], layers: int, heads: int) -> None:
    """Name layers and heads at the edges of maps that share their axes."""
    shown = range(0, layers, max(1, -(-layers // 8)))
    for panel in axes:
        panel.set_yticks([layer + 0.5 for layer in shown], [str(layer) for layer in shown])
        panel.set_xticks([0.5, heads - 0.5, heads + 1.5], ["head 0", str(heads - 1), "MLP"])
        panel.tick_params(axis="x", labelsize=8)
        panel.label_outer()
    axes[0].set_ylabel("Layer")


def caption(results: Results, model: str) -> str:
    """Where the strength lies."""
    tasks = results["circuits"][model]["tasks"]
    shares = {task: circuit["profile"]["attention"] for task, circuit in tasks.items()}
    least, most = (
        f"{percent(shares[task], 0)} ({task_label(task)})"
        for task in (min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__))
    )
    text = f"Red nodes help, blue ones hinder. Heads hold from {least} to {most} of the strength"
    errors = [circuit["completeness"]["error"] for circuit in tasks.values() if circuit["completeness"]]
    if errors:
        text += f"; integrated gradients miss the change that they should add up to by at most {percent(max(errors))}"
    return f"{text}."


def terms(results: Results) -> Terms:
    method, steps = lookup(results, "config", "method"), lookup(results, "config", "steps")
    return [
        (
            "Score",
            f"By {method}{f' with {steps} steps' if 'ig' in str(method) else ''}: how much the loss (minus the logit "
            "difference) would rise if the node wrote what it writes on the corrupted prompt. IG error: how far the "
            "scores of `input` are from the change of the loss that integrated gradients should add up to.",
        )
    ]


def section(model: str) -> Section:
    name, title, needs = f"scores-{model}", f"Which nodes matter in {model}", [("circuits", model, "tasks")]
    return Section(name, title, needs, partial(figure, model=model), partial(caption, model=model), terms=terms)
