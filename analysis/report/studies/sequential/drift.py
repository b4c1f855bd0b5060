"""What the loss on the other tasks goes with: how far a stage moved the model, in behaviour and in weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.report.numbers import count, fixed
from analysis.report.results import Results, lookup
from analysis.report.section import Section, Terms
from analysis.report.studies.number_columns import two_decimals, with_ends
from analysis.report.studies.sequential.arm_marks import legend, legend_height, look
from analysis.report.studies.sequential.arms import arms, called
from analysis.report.style import GREY, INK, canvas, logarithmic
from analysis.report.tables import Table, number_table


PREDICTOR_LABELS = {
    "forward": "Forward KL",
    "reverse": "Reverse KL",
    "norm": "Update length",
    "gain": "Gain on the new task",
}
DRAWN = ("forward", "reverse", "norm")
# What else might predict forgetting, in the words of a sentence.
OTHER_PREDICTORS = {"reverse": "the reverse KL", "norm": "the length of the update"}
REFERENCE_LABELS = {"step": "Model before the stage", "base": "Model before all stages"}
# Narrow logarithmic axes over a wider range than this have room for a number at each decade only.
DECADES_FROM = 20


def figure(results: Results) -> Figure:
    """Loss on the other tasks against the drift of each stage: both directions of KL, and the distance in weights.

    Black: the quadratic fit over all points, where there is one.
    """
    stages = [point | point["step"] for point in results["continual"]["drift"]["points"]]
    stages = [stage for stage in stages if stage["loss"] is not None]
    names = [name for name in DRAWN if any(stage[name] is not None for stage in stages)]
    drawing, panels = canvas(3.1 + legend_height(arms(results)), 1, len(names), sharey=True, squeeze=False)
    for axes, name in zip(panels.flat, names, strict=True):
        _draw_predictor(axes, results, name, [stage for stage in stages if stage[name] is not None])
    panels[0, 0].set_ylabel("Loss on the other tasks (points)")
    legend(drawing, results)
    return drawing


def _draw_predictor(axes: Axes, results: Results, name: str, stages: Sequence[Mapping[str, Any]]) -> None:
    """One point for each of `stages`, and the fit."""
    positive = [stage[name] for stage in stages if stage[name] > 0] or [1e-3]
    left, right = min(positive) / 1.6, max(positive) * 1.6
    _scale(axes, left, right)
    axes.axhline(0, color=GREY, linewidth=1.2)
    for stage in stages:
        shade, _, marker = look(results, stage["arm"])
        # What did not drift has no place on a logarithmic axis; it stands at its edge.
        x, y = max(left, stage[name]), 100 * stage["loss"]
        axes.plot(x, y, marker, color=shade, alpha=0.75, markersize=5, clip_on=False)
    fit = results["continual"]["drift"]["step"]["all"][name]["fit"]
    if fit is not None:
        x = np.geomspace(min(positive), max(positive), 100)
        axes.plot(x, 100 * sum(c * x**i for i, c in enumerate(fit["coefficients"])), color=INK, linewidth=1.5)
    axes.set_title(PREDICTOR_LABELS[name], weight="bold", fontsize=10)
    axes.set_xlabel("log scale" if name == "norm" else "nats per token\n(log scale)", fontsize=9.5)
    axes.tick_params(axis="x", labelsize=9)
    axes.grid(axis="both")


def _scale(axes: Axes, left: float, right: float) -> None:
    """A logarithmic axis that shows `left` to `right`."""
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    if right / left < DECADES_FROM:
        logarithmic(axes.xaxis, left, right)
    else:
        axes.xaxis.set_major_locator(LogLocator(numticks=5))
        axes.xaxis.set_major_formatter(FuncFormatter(_decade))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _decade(value: float, _: int) -> str:
    """A power of ten, short: 0.01, but 1e-4."""
    return f"{value:g}" if 1e-3 <= value < 1e4 else f"1e{round(np.log10(value))}"


def caption(results: Results) -> str:
    """Which quantity goes with forgetting best."""
    relation = loss_relation(results)
    text = (
        "One point for each stage of each chain. Across: how far the stage moved the model from where it started, on "
        "prompts of the task it trained on. Up: mean accuracy lost on all other columns. Black: quadratic fit."
    )
    return f"{text} The loss {relation}." if relation else text


def loss_relation(results: Results) -> str | None:
    """What the loss on the other tasks goes with; None where no rank correlation is defined."""
    predictors = lookup(results, "continual", "drift", "step", "all") or {}
    forward = lookup(predictors, "forward", "correlation")
    if not forward or forward["value"] is None:
        return None
    value = fixed(forward["value"], 2)
    if forward["low"] is None:
        relation = f"has a rank correlation of {value} with the forward KL on the new task"
        return f"{relation} (too few chains for an interval)"
    if forward["low"] > 0:
        verb = "rises with"
    elif forward["high"] < 0:
        verb = "falls with"
    else:
        verb = "does not clearly go with"
    interval = f"rank correlation {value}, {fixed(forward['low'], 2)} to {fixed(forward['high'], 2)}"
    clauses = [f"{verb} the forward KL on the new task ({interval})"]
    for name, words in OTHER_PREDICTORS.items():
        lead = lookup(predictors, name, "forward_minus")
        if lead and lead["low"] is not None:
            how = "worse" if lead["low"] > 0 else "better" if lead["high"] < 0 else "neither clearly better nor worse"
            clauses.append(f"{words} ({fixed(predictors[name]['correlation']['value'], 2)}) predicts it {how}")
    return "; ".join(clauses)


def table(results: Results) -> Table:
    """How well each predictor ranks the stages by their loss on the other tasks."""
    columns = [
        *with_ends("Rank corr.", two_decimals, "correlation"),
        *with_ends("Forward KL minus it", two_decimals, "forward_minus"),
        ("R\N{SUPERSCRIPT TWO} of the fit", "fit.r_squared", two_decimals),
        ("Stages", "points", count),
        ("Chains", "chains", count),
    ]
    rows = [
        (
            [f"{words}, {'all arms' if group == 'all' else f'arms of {called(group)}'}", PREDICTOR_LABELS[name]],
            ("continual", "drift", reference, group, name),
        )
        for reference, words in REFERENCE_LABELS.items()
        for group, predictors in (lookup(results, "continual", "drift", reference) or {}).items()
        for name in predictors
    ]
    title = "Drift of a stage and its loss on the other tasks"
    return number_table(results, title, ["Against", "Predictor"], columns, rows)


def terms(results: Results) -> Terms:
    meanings = {
        "Loss on the other tasks": "Of a stage, against the model that it started from: mean of R[k - 1, j] - R[k, j] "
        "over all columns j but the one it trained on. Against the model before all stages: mean of R[0, j] - R[k, j] "
        "over the columns that no stage up to k trained on.",
        "Forward and reverse KL": "On prompts of the task of the stage, in nats per token. Forward: KL(before || "
        "after) over completions that the model before sampled. Reverse: KL(after || before) over completions that "
        f"the model after sampled. Before is the model that the stage started from or the base.{_estimator(results)} "
        "Shenfeld et al. 2025 (arXiv 2509.04259) find that the forward KL on the new task predicts forgetting, "
        "whatever the method.",
        "Rank correlation, fit": "Spearman's, over stages. Its interval draws whole chains (arm and seed) with "
        "replacement, as the stages of a chain depend on each other; under 4 chains there is none. Forward KL minus "
        "it: the rank correlation of the forward KL less that of the predictor, on the same draws. Fit: least "
        "squares, quadratic. Gain on the new task: R[k, k] less the same before.",
    }
    return list(meanings.items())


def _estimator(results: Results) -> str:
    """How the divergences were measured, as the first of them says; nothing if none does."""
    chains = [chain for arm in (lookup(results, "arms") or {}).values() for chain in arm["seeds"].values()]
    divergences = [lookup(stage, "kl_step", "forward") or {} for chain in chains for stage in chain["stages"]]
    for divergence in divergences:
        if "estimator" in divergence:
            return (
                f" Estimator: {divergence['estimator']}, at temperature {divergence['temperature']:g}, "
                f"{divergence['prompts']} prompts a stage and direction."
            )
    return ""


SECTION = Section(
    "drift", "Drift and forgetting", [("continual", "drift")], figure, caption, numbers=[table], terms=terms
)
