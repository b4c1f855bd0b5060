"""Figures of a sequential run: matrices, metrics, differences, each task from stage to stage, drift."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.report.results import LABELS, Results, lookup
from analysis.report.style import COLOURS, FURTHER_COLOURS, INK, WIDTH, logarithmic


METRIC_LABELS = {
    "average_accuracy": "Average accuracy",
    "learning_accuracy": "Learning accuracy",
    "backward_transfer": "Backward transfer",
    "forward_transfer": "Forward transfer",
    "forgetting": "Forgetting",
}
PREDICTOR_LABELS = {
    "forward": "Forward KL",
    "reverse": "Reverse KL",
    "norm": "Update length",
    "gain": "Gain on the new task",
}
# Of methods and of the papers' tasks, beside those of a comparison.
NAMES = LABELS | {
    "sft": "SFT",
    "countdown_hub": "Countdown hub",
    "math": "MATH",
    "sciknoweval_chemistry": "Chemistry",
    "boolq": "BoolQ",
    "gsm8k": "GSM8K",
    "conciseness": "Conciseness",
}
METHOD_COLOURS = COLOURS | {"sft": FURTHER_COLOURS[0]}
# Arms of one method share its colour; the main arm has the first line and marker, its controls the next ones.
LINES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")
# Matrices of this many columns have room beside each other with an interval in each cell; wider ones stand below.
COLUMNS_BESIDE = 5
COLUMNS_WITH_INTERVALS = 8
# Narrow logarithmic axes over a wider range than this have room for a number at each decade only.
DECADES_FROM = 20
# Names up to this many letters stand three beside each other in a legend, and with another one in a line.
SHORT_NAME = 14
# Red over white to blue, without the dark ends, on which black numbers could not be read.
CHANGE = ListedColormap(colormaps["RdBu"](np.linspace(0.2, 0.8, 256)), "change")


def called(name: str) -> str:
    """How an arm or a task is called in text and figures."""
    return NAMES.get(name, name)


def arms(results: Results) -> list[str]:
    """The arms with at least one complete chain."""
    return list(lookup(results, "continual", "matrix") or {})


def main_arms(results: Results) -> list[str]:
    return lookup(results, "continual", "main") or []


def controls(results: Results) -> list[str]:
    """The arms beside the main arm of their method."""
    return [arm for arm in arms(results) if arm not in main_arms(results)]


def pair_words(pair: str) -> str:
    """ "es|grpo" -> "GRPO minus ES": the order of the subtraction."""
    one, other = pair.split("|")
    return f"{called(other)} minus {called(one)}"


def look(results: Results, arm: str) -> tuple[str, Any, str]:
    """Colour, line style and marker of an arm."""
    method = results["arms"][arm]["method"]
    alike = [other for other in arms(results) if results["arms"][other]["method"] == method]
    index = alike.index(arm)
    return METHOD_COLOURS[method], LINES[index % len(LINES)], MARKERS[index % len(MARKERS)]


def matrices(results: Results, shown: Sequence[str]) -> Figure:
    """Accuracy in percent with its interval, a row for each stage; the colour is the change from before all training.

    A frame marks the task that the stage of its row trained on.
    """
    tasks, columns = results["tasks"], results["columns"]
    short = max(len(called(task)) for task in tasks) <= SHORT_NAME
    beside = len(shown) > 1 and len(columns) <= COLUMNS_BESIDE and short
    per_row = 2 if beside else 1
    down = -(-len(shown) // per_row)
    high = 1.15 + 0.47 * (len(tasks) + 1)
    figure = Figure(figsize=(WIDTH, 0.35 + down * high), layout="constrained")
    axes = list(figure.subplots(down, per_row, squeeze=False, sharey=True).flat)
    found = {arm: results["continual"]["matrix"][arm] for arm in shown}
    changes = {arm: np.array(m["value"]) - np.array(m["value"])[0] for arm, m in found.items()}
    reach = max(0.1, *(float(np.abs(change).max()) for change in changes.values()))
    image = None
    for panel, (arm, matrix) in zip(axes, found.items(), strict=False):
        image = panel.pcolormesh(
            100 * changes[arm], norm=Normalize(-100 * reach, 100 * reach), cmap=CHANGE, edgecolors="white", linewidth=1
        )
        small = 8.5 if beside and len(columns) == COLUMNS_BESIDE else 9.0
        _write_cells(panel, matrix, small if len(columns) <= COLUMNS_WITH_INTERVALS else None)
        for k in range(len(tasks)):
            panel.add_patch(Rectangle((k + 0.03, k + 1.03), 0.94, 0.94, fill=False, edgecolor=INK, linewidth=1.8))
        panel.set_title(called(arm), weight="bold", color=look(results, arm)[0])
        panel.set_xticks(
            [i + 0.5 for i in range(len(columns))],
            [called(column) for column in columns],
            rotation=40,
            ha="right",
            rotation_mode="anchor",
        )
        panel.set_yticks([i + 0.5 for i in range(len(tasks) + 1)], ["before", *(called(task) for task in tasks)])
        panel.set_ylim(len(tasks) + 1, 0)
        panel.tick_params(length=0)
        for spine in panel.spines.values():
            spine.set_visible(False)
    for spare in axes[len(shown) :]:
        spare.set_visible(False)
    for panel in axes[: len(shown) : per_row]:
        panel.set_ylabel("After training on")
    figure.colorbar(
        image,
        ax=figure.axes,
        location="bottom",
        shrink=0.7,
        aspect=34,
        pad=0.02,
        label="Change from before all training (points)",
    )
    return figure


def _write_cells(axes: Axes, matrix: Mapping[str, Any], small: float | None) -> None:
    """Each value and, in the size `small`, its interval; None: there is no room for one."""
    for (row, column), value in np.ndenumerate(100 * np.array(matrix["value"])):
        low, high = (100 * matrix[end][row][column] for end in ("low", "high"))
        axes.text(
            column + 0.5,
            row + (0.5 if small is None else 0.36),
            f"{value:.0f}",
            ha="center",
            va="center",
            fontsize=11,
            weight="bold",
            color="black",
        )
        if small is not None:
            axes.text(
                column + 0.5,
                row + 0.74,
                f"{low:.0f}\N{EN DASH}{high:.0f}",
                ha="center",
                va="center",
                fontsize=small,
                color="black",
            )


def metrics(results: Results) -> Figure:
    """Average and learning accuracy and forgetting of every arm, with intervals and single seeds."""
    shown = arms(results)
    names = [
        name
        for name in ("average_accuracy", "learning_accuracy", "forgetting")
        if results["continual"]["metrics"][shown[0]][name] is not None
    ]
    figure = Figure(figsize=(WIDTH, 1.0 + 0.36 * len(shown)), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for y, arm in enumerate(shown):
            shade, _, marker = look(results, arm)
            entry = results["continual"]["metrics"][arm][name]
            seeds = [chain[name] for chain in results["continual"]["seeds"][arm].values()]
            axes.plot([100 * value for value in seeds], [y] * len(seeds), "|", color=shade, markersize=13, alpha=0.5)
            _interval(axes, entry, y, shade, marker)
        axes.margins(x=0.1)
        if name == "forgetting":
            axes.axvline(0, color="#8a8a8a", linewidth=1.2, zorder=0)
        axes.set_title(METRIC_LABELS[name].replace(" ", "\n"), weight="bold", fontsize=10)
        axes.set_xlabel("points" if name == "forgetting" else "%")
        _arm_rows(axes, [called(arm) for arm in shown])
    return figure


def differences(results: Results) -> Figure:
    """How much more each second arm forgets, and how much more it ends with, on the same items."""
    pairs = results["continual"]["pairs"]
    names = [
        name for name in ("forgetting", "average_accuracy") if next(iter(pairs.values()))["metrics"][name] is not None
    ]
    figure = Figure(figsize=(WIDTH, 1.0 + 0.42 * len(pairs)), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for y, found in enumerate(pairs.values()):
            _interval(axes, found["metrics"][name], y, INK, "o")
        axes.axvline(0, color="#8a8a8a", linewidth=1.2, zorder=0)
        axes.margins(x=0.1)
        axes.set_title(METRIC_LABELS[name], weight="bold", fontsize=10)
        axes.set_xlabel("Difference (points)")
        _arm_rows(
            axes,
            [
                words if len(words) <= 2 * SHORT_NAME - 8 else words.replace(" minus ", "\nminus ")
                for words in map(pair_words, pairs)
            ],
        )
    return figure


def _interval(axes: Axes, entry: Mapping[str, float], y: float, shade: str, marker: str) -> None:
    axes.plot([100 * entry["low"], 100 * entry["high"]], [y, y], color=shade, linewidth=2)
    axes.plot(100 * entry["value"], y, marker, color=shade, markersize=7)


def _arm_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def retention(results: Results) -> Figure:
    """Accuracy of each column from stage to stage, one panel for each, the main arms with their intervals.

    A dotted line marks the stage that trained on the task of the panel.
    """
    tasks, columns, shown = results["tasks"], results["columns"], arms(results)
    per_row = 2
    down = -(-len(columns) // per_row)
    figure = Figure(figsize=(WIDTH, 0.6 + _legend_height(shown) + 1.75 * down), layout="constrained")
    panels = list(figure.subplots(down, per_row, squeeze=False, sharex=True).flat)
    stages = np.arange(len(tasks) + 1)
    for j, (axes, column) in enumerate(zip(panels, columns, strict=False)):
        if j < len(tasks):
            axes.axvline(j + 1, color="#8a8a8a", linestyle=(0, (1, 1.5)), linewidth=1.4)
        for arm in shown:
            shade, line, marker = look(results, arm)
            matrix = {
                end: 100 * np.array(results["continual"]["matrix"][arm][end])[:, j] for end in ("value", "low", "high")
            }
            is_main = arm in main_arms(results)
            if is_main:
                axes.fill_between(stages, matrix["low"], matrix["high"], color=shade, alpha=0.14, linewidth=0)
            axes.plot(
                stages,
                matrix["value"],
                color=shade,
                linestyle=line,
                marker=marker,
                linewidth=2.2 if is_main else 1.3,
                markersize=5 if is_main else 3.5,
            )
        axes.set_title(called(column) if j < len(tasks) else f"{called(column)} (never trained)", weight="bold")
        axes.set_xticks(stages, ["before", *map(str, stages[1:])])
        axes.grid(axis="y")
    for spare in panels[len(columns) :]:
        spare.set_visible(False)
        # The panel above the empty place carries the numbers of the stages.
        panels[len(columns) - per_row].tick_params(axis="x", labelbottom=True)
    figure.supxlabel("Stages trained", fontsize=11)
    figure.supylabel("Accuracy (%)", fontsize=11)
    _legend(figure, results)
    return figure


def drift(results: Results) -> Figure:
    """Loss on the other tasks against the drift of each stage: both directions of KL, and the distance in weights.

    Black: the quadratic fit over all points, where there is one.
    """
    points = [point | point["step"] for point in results["continual"]["drift"]["points"]]
    points = [point for point in points if point["loss"] is not None]
    names = [name for name in ("forward", "reverse", "norm") if any(point[name] is not None for point in points)]
    figure = Figure(figsize=(WIDTH, 3.1 + _legend_height(arms(results))), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        measured = [point for point in points if point[name] is not None]
        positive = [point[name] for point in measured if point[name] > 0] or [1e-3]
        left, right = min(positive) / 1.6, max(positive) * 1.6
        axes.set_xscale("log")
        axes.set_xlim(left, right)
        if right / left < DECADES_FROM:
            logarithmic(axes.xaxis, left, right)
        else:
            axes.xaxis.set_major_locator(LogLocator(numticks=5))
            axes.xaxis.set_major_formatter(FuncFormatter(_decade))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.axhline(0, color="#8a8a8a", linewidth=1.2)
        for point in measured:
            shade, _, marker = look(results, point["arm"])
            # What did not drift has no place on a logarithmic axis; it stands at its edge.
            axes.plot(
                max(left, point[name]),
                100 * point["loss"],
                marker,
                color=shade,
                alpha=0.75,
                markersize=5,
                clip_on=False,
            )
        fit = results["continual"]["drift"]["step"]["all"][name]["fit"]
        if fit is not None:
            x = np.geomspace(min(positive), max(positive), 100)
            y = sum(c * x**i for i, c in enumerate(fit["coefficients"]))
            axes.plot(x, 100 * y, color=INK, linewidth=1.5)
        axes.set_title(PREDICTOR_LABELS[name], weight="bold", fontsize=10)
        axes.set_xlabel("log scale" if name == "norm" else "nats per token\n(log scale)", fontsize=9.5)
        axes.tick_params(axis="x", labelsize=9)
        axes.grid(axis="both")
    panels[0].set_ylabel("Loss on the other tasks (points)")
    _legend(figure, results)
    return figure


def _decade(value: float, _: int) -> str:
    """A power of ten, short: 0.01, but 1e-4."""
    return f"{value:g}" if 1e-3 <= value < 1e4 else f"1e{round(np.log10(value))}"


def _legend(figure: Figure, results: Results) -> None:
    handles = []
    for arm in arms(results):
        shade, line, marker = look(results, arm)
        handles.append(Line2D([], [], color=shade, linestyle=line, marker=marker, markersize=5, linewidth=1.8))
    figure.legend(
        handles,
        [called(arm) for arm in arms(results)],
        loc="outside upper left",
        ncols=_legend_columns(arms(results)),
        handlelength=2.4,
        fontsize=10,
        columnspacing=1.2,
    )


def _legend_columns(names: Sequence[str]) -> int:
    return 3 if max(map(len, names)) <= SHORT_NAME else 2


def _legend_height(names: Sequence[str]) -> float:
    """Inches."""
    return 0.25 * -(-len(names) // _legend_columns(names))
