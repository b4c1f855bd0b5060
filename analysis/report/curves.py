"""Figures with a continuous horizontal axis: learning, and the straight lines between models."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.report.results import BASE, Results, label, lookup, methods, models, pair_label
from analysis.report.style import INK, WIDTH, colour, label_ends


LINES_PER_ROW = 3


def learning(results: Results) -> Figure:
    """Held-out accuracy with its interval (top) and training reward (bottom) against generated completions."""
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    accuracy, reward = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    accuracy_ends, reward_ends = [], []
    for method in methods(results):
        shade = colour(method, methods(results))
        evaluation = lookup(results, "training", method, "evaluation")
        # A training that was never evaluated has empty lists.
        if evaluation and evaluation["completions"]:
            x, y = numbers(evaluation["completions"]), 100 * numbers(evaluation["accuracy"])
            low, high = 100 * numbers(evaluation["low"]), 100 * numbers(evaluation["high"])
            accuracy.fill_between(x, low, high, color=shade, alpha=0.16, linewidth=0)
            accuracy.plot(x, y, color=shade, marker="o", markersize=4)
            accuracy_ends.append((label(method), x[-1], y[-1], shade))
        curve = lookup(results, "training", method, "curve")
        if curve:
            x, y = numbers(curve["completions"]), numbers(curve["reward"])
            reward.plot(x, y, color=shade, linewidth=1.6)
            reward_ends.append((label(method), x[-1], y[-1], shade))
    accuracy.set_ylim(bottom=0)
    accuracy.set_ylabel("Accuracy (%)")
    accuracy.set_title(f"Held-out {label(lookup(results, 'task') or 'task')}: accuracy with 95 % interval")
    reward.set_title("Mean training reward of each step")
    reward.set_ylabel("Reward (0 to 1)")
    reward.set_xlabel("Completions generated for training")
    reward.set_xlim(left=0)
    reward.xaxis.set_major_locator(MaxNLocator(5))
    reward.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for axes, ends, line_height in ((accuracy, accuracy_ends, 0.065), (reward, reward_ends, 0.1)):
        axes.grid(axis="y")
        label_ends(axes, ends, line_height)
    return figure


def connectivity(results: Results) -> Figure:
    """Reward and, below it, loss along the straight line between two models; three pairs beside each other."""
    lines = {pair: line for pair, line in results["connectivity"]["lines"].items() if line}
    blocks = -(-len(lines) // LINES_PER_ROW)
    figure = Figure(figsize=(WIDTH, 4.6 * blocks), layout="constrained")
    figure.get_layout_engine().set(wspace=0.09, hspace=0.05)
    grid = figure.subplots(2 * blocks, min(len(lines), LINES_PER_ROW), squeeze=False)
    for axes in grid.flat[1:]:
        axes.set_visible(False)
    for i, (pair, line) in enumerate(lines.items()):
        block, column = divmod(i, LINES_PER_ROW)
        for row, quantity, scale in ((0, "reward", 100), (1, "loss", 1)):
            axes = grid[2 * block + row, column]
            axes.set_visible(True)
            if i > 0:
                axes.sharey(grid[row, 0])
            _line(axes, pair, line, quantity, scale, models(results))
            axes.tick_params(labelleft=column == 0)
        grid[2 * block, column].set_title(pair_label(pair), weight="bold")
    for block in range(blocks):
        grid[2 * block, 0].set_ylabel("Reward (% of examples\nfully right)")
        grid[2 * block + 1, 0].set_ylabel("Loss (nats per token)")
    grid[0, 0].set_ylim(bottom=0)
    figure.supxlabel("Position on the straight line between the two models", fontsize=11)
    return figure


def _line(axes: Any, pair: str, line: dict[str, Any], quantity: str, scale: float, names: Sequence[str]) -> None:
    start, end = pair.split("|")
    # The line is drawn in the colour of what differs from the base, or in ink where both ends do.
    shade = colour(end, names) if start == BASE else INK
    t, values = numbers(line["ts"]), scale * numbers(line[quantity])
    low, high = scale * numbers(line[f"{quantity}_low"]), scale * numbers(line[f"{quantity}_high"])
    axes.fill_between(t, low, high, color=shade, alpha=0.16, linewidth=0)
    axes.plot(t[[0, -1]], values[[0, -1]], color="#8a8a8a", linestyle=(0, (2, 2)), linewidth=1.3)
    axes.plot(t, values, color=shade)
    for position, name in ((0, start), (-1, end)):
        axes.plot(t[position], values[position], "o", color=colour(name, names), markersize=7, clip_on=False)
    axes.set_xticks([0, 0.5, 1], [label(start), "", label(end)])
    for tick, name in zip(axes.get_xticklabels()[::2], (start, end), strict=True):
        tick.set(color=colour(name, names), weight="bold")
    axes.set_xlim(-0.06, 1.06)
    axes.grid(axis="y")


def numbers(values: Sequence[float | None]) -> np.ndarray:
    """A list of `results.json` as an array; null becomes NaN, which is not drawn."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
