"""Figures along the steps of a run: how it drifted, and what theory predicts for it."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, MaxNLocator, NullFormatter

from analysis.report.curves import numbers
from analysis.report.results import Results, label
from analysis.report.style import INK, WIDTH, colour, label_ends


DOTTED = (0, (2, 2))
DASHED = (0, (5, 2))


def trajectory(results: Results) -> Figure:
    """Distance from base and direction along the checkpoints, beside steps of their lengths in random directions."""
    names, path = results["trajectory"]["checkpoints"], results["trajectory"]["all"]
    x = positions(names)
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    distance, direction = figure.subplots(2, 1, sharex=True)
    shade = colour("es", [])
    walked = np.cumsum(path["step_norm"])
    distance.plot(x, walked, color="#8a8a8a", linestyle=DOTTED, linewidth=1.4)
    distance.plot(x, path["norm"], color=shade, marker="o", markersize=6, linewidth=3.2, alpha=0.7)
    distance.plot(x, path["random_norm"], color=INK, linestyle=DASHED, linewidth=1.5)
    distance.set_ylim(bottom=0)
    distance.set_ylabel("Distance from base")
    direction.plot(
        x, numbers(path["cosine_with_final"]), color=shade, marker="o", markersize=6, linewidth=3.2, alpha=0.7
    )
    direction.plot(x, numbers(path["random_cosine_with_final"]), color=INK, linestyle=DASHED, linewidth=1.5)
    direction.set_ylabel("Cosine with the\nwhole update")
    direction.set_ylim(min(0, *(value for value in path["cosine_with_final"] if value is not None)), 1.05)
    direction.set_xlabel("Step" if all(name.isdecimal() for name in names) else "Checkpoint")
    direction.set_xticks(x, names)
    if len(names) > 12:
        direction.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    for axes in (distance, direction):
        axes.grid(axis="y")
    ends = [("run", x[-1], path["norm"][-1], shade), ("random", x[-1], path["random_norm"][-1], INK)]
    label_ends(distance, [*ends, ("straight", x[-1], walked[-1], "#8a8a8a")], 0.1)
    return figure


def positions(names: list[str]) -> list[float]:
    """Where checkpoints stand on the axis: at their steps, or one after the other if they are not named by steps."""
    return [float(name) for name in names] if all(name.isdecimal() for name in names) else list(range(len(names)))


def theory_walk(results: Results) -> Figure:
    """Measured distance from base at every step, beside a random walk of the same steps."""
    runs = results["theory"]
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    ends = []
    for name, run in runs.items():
        walk, shade = run["walk"], colour(name, list(runs))
        axes.plot(walk["steps"], walk["measured"], color=shade, linewidth=3.2, alpha=0.7)
        axes.plot(walk["steps"], walk["predicted"], color=INK, linewidth=1.5, linestyle=DASHED)
        ends += [
            (label(name), walk["steps"][-1], walk["measured"][-1], shade),
            ("random walk", walk["steps"][-1], walk["predicted"][-1], INK),
        ]
        if walk["plateau"] is not None:
            axes.axhline(walk["plateau"], color="#8a8a8a", linestyle=DOTTED, linewidth=1.4)
            ends.append(("plateau", walk["steps"][-1], walk["plateau"], "#6e6e6e"))
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("Step")
    axes.set_ylabel("Distance from base")
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    label_ends(axes, ends, 0.085)
    return figure


def theory_reward(results: Results) -> Figure:
    """The members' mean reward, the fitted approach to its final value, and where frozen statistics would settle."""
    runs = {name: run for name, run in results["theory"].items() if run["modes"]}
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    ends = []
    for name, run in runs.items():
        modes, shade = run["modes"], colour(name, list(runs))
        axes.plot(modes["steps"], modes["reward"], "o", color=shade, markersize=4.5, alpha=0.8)
        axes.plot(modes["steps"], modes["fitted"], color=shade)
        ends += _settling(axes, modes, shade)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("Step")
    axes.set_ylabel("Mean reward of the members")
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    label_ends(axes, ends, 0.085)
    return figure


def _settling(axes: Any, modes: dict[str, Any], shade: str) -> list[tuple[str, float, float, str]]:
    last = modes["steps"][-1]
    axes.axhline(modes["final_reward"], color=shade, linestyle=DOTTED, linewidth=1.4)
    return [("fit settles here", last, modes["final_reward"], shade)]


def useful(results: Results) -> Figure:
    """Share of a step's squared length along the gradient, in both halves of each run, beside a random direction's."""
    runs = {name: run for name, run in results["theory"].items() if run["useful"]}
    figure = Figure(figsize=(WIDTH, 1.1 + 0.75 * len(runs)), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    ends = [
        part[end]
        for run in runs.values()
        for part in run["useful"].values()
        for end in ("share_low", "share_high", "random_share")
    ]
    axes.set_xlim(min(ends) / 1.6, max(ends) * 1.6)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(LogFormatterSciNotation())
    rows = []
    for name, run in runs.items():
        for half, part in run["useful"].items():
            y = len(rows)
            rows.append(f"{label(name)}, steps {part['from_step']}\N{EN DASH}{part['to_step']}")
            shade = colour(name, list(runs))
            axes.plot([part["share_low"], part["share_high"]], [y, y], color=shade)
            axes.plot(part["share"], y, "o", color=shade, markersize=7)
            axes.plot([part["random_share"]] * 2, [y - 0.35, y + 0.35], color=INK, linewidth=2.2)
            if half == "first":
                axes.annotate(
                    "one random direction",
                    (part["random_share"], y - 0.35),
                    xytext=(4, 1),
                    textcoords="offset points",
                    fontsize=9.5,
                    va="bottom",
                )
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.9)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_xlabel("Share of a step along the gradient (log scale)")
    return figure
