"""Figures of reward and loss around the models: the plane through three of them, probes, and lines of single parts."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from analysis.report.curves import numbers
from analysis.report.results import Results, in_order, label, lookup, models, pair_label
from analysis.report.style import FURTHER_COLOURS, INK, WIDTH, colour


LEVELS = 12


def plane(results: Results) -> Figure:
    """Reward and loss over the plane through three models, interpolated between the measured points (small dots)."""
    found = results["plane"]
    quantities = [("reward", 100, "Reward (% of examples fully right)", "viridis")]
    if not any(value is None for row in found["loss"] for value in row):
        quantities.append(("loss", 1, "Loss (nats per token)", "magma_r"))
    figure = Figure(figsize=(WIDTH, 3.6 * len(quantities)), layout="constrained")
    for axes, (quantity, scale, name, colours) in zip(
        figure.subplots(len(quantities), 1, squeeze=False, sharex=True)[:, 0], quantities, strict=True
    ):
        values = scale * np.array(found[quantity], dtype=np.float64)
        image = axes.contourf(found["xs"], found["ys"], values, LEVELS, cmap=colours)
        axes.contour(found["xs"], found["ys"], values, LEVELS, colors="white", linewidths=0.4, alpha=0.6)
        xs, ys = np.meshgrid(found["xs"], found["ys"])
        axes.plot(xs, ys, ".", color="white", markersize=2, alpha=0.7)
        figure.colorbar(image, ax=axes, label=name, pad=0.02)
        for model, at in found["models"].items():
            axes.plot(
                at["x"],
                at["y"],
                "o",
                color=colour(model, models(results)),
                markersize=9,
                markeredgecolor="white",
                markeredgewidth=1.6,
            )
            axes.annotate(
                label(model),
                (at["x"], at["y"]),
                xytext=(7, 7),
                textcoords="offset points",
                weight="bold",
                color=INK,
                bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5},
            )
        origin, a, b = map(label, found["corners"])
        axes.set_ylabel(f"Towards {b},\northogonal to the other axis")
    axes.set_xlabel(f"From {origin} towards {a} (distances of weights)")
    return figure


def probes(results: Results) -> Figure:
    """Odd and even parts of reward and loss along each update, beside the mean of random directions of its norms."""
    found = results["probes"]
    shown = list(found["checkpoints"])
    quantities = [("reward", 100, "points")]
    if found["start"]["loss"] is not None:
        quantities.append(("loss", 1, "nats per token"))
    rows = [(part, *quantity) for quantity in quantities for part in ("odd", "even")]
    figure = Figure(figsize=(WIDTH, 0.7 + 1.6 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(shown), sharex=True, sharey="row", squeeze=False)
    scales = [0.0, *found["scales"]]
    for column, method in enumerate(shown):
        probed, shade = found["checkpoints"][method], colour(method, shown)
        for row, (part, quantity, scale, unit) in enumerate(rows):
            axes = grid[row, column]
            mean = scale * numbers([0.0, *probed["random_mean"][part][quantity]])
            spread = scale * np.nan_to_num(numbers([0.0, *probed["random_std"][part][quantity]]))
            axes.fill_between(scales, mean - spread, mean + spread, color="#8a8a8a", alpha=0.25, linewidth=0)
            axes.plot(scales, mean, color=INK, linestyle=(0, (5, 2)), linewidth=1.5)
            axes.plot(
                scales,
                scale * numbers([0.0, *probed["update"][part][quantity]]),
                color=shade,
                marker="o",
                markersize=4,
            )
            axes.axhline(0, color="#8a8a8a", linewidth=0.8)
            axes.grid(axis="y")
            if column == 0:
                axes.set_ylabel(f"{part} part of\nthe {quantity}\n({unit})", fontsize=9.5)
        grid[0, column].set_title(label(method), weight="bold", color=shade)
    handles = [Line2D([], [], color=INK, linestyle=(0, (5, 2))), Line2D([], [], color="#8a8a8a", marker="o")]
    figure.legend(handles, ["random directions", "the update"], loc="outside upper left", ncols=2)
    figure.supxlabel("Distance along the direction (1: the whole update)", fontsize=11)
    return figure


def layer_lines(results: Results) -> Figure:
    return _part_lines(results, "layer_lines", "layer")


def kind_lines(results: Results) -> Figure:
    return _part_lines(results, "kind_lines", "kind of matrix")


def _part_lines(results: Results, section: str, what: str) -> Figure:
    """How reward and loss change when one part alone goes from one model to the other."""
    lines = lookup(results, section, "lines")
    parts = in_order({part for of_pair in lines.values() for part in of_pair})
    if section == "kind_lines":
        parts = list(dict.fromkeys(part for of_pair in lines.values() for part in of_pair))
    figure = Figure(figsize=(WIDTH, 1.7 + 0.3 * len(parts)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    shades = {pair: FURTHER_COLOURS[i % len(FURTHER_COLOURS)] for i, pair in enumerate(lines)}
    for axes, quantity, scale, name in (
        (panels[0], "reward", 100, "reward\n(points)"),
        (panels[1], "loss", 1, "loss\n(nats per token)"),
    ):
        for i, (pair, of_pair) in enumerate(lines.items()):
            _changes(axes, of_pair, parts, quantity, scale, shades[pair], (i + 0.5) / len(lines) - 0.5)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_xlabel(f"Change of the {name}")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(parts)), ["outside the layers" if part == "-" else part for part in parts])
    panels[0].set_ylim(len(parts) - 0.5, -0.5)
    panels[0].set_ylabel(what.capitalize())
    handles = [Line2D([], [], color=shade, linewidth=5) for shade in shades.values()]
    names = [pair_label(pair).replace("\N{EN DASH}", " \N{RIGHTWARDS ARROW} ") for pair in shades]
    figure.legend(handles, names, loc="outside upper left", ncols=3)
    return figure


def _changes(
    axes: Axes, of_pair: dict[str, Any], parts: list[str], quantity: str, scale: float, shade: str, offset: float
) -> None:
    for y, part in enumerate(parts):
        line = of_pair.get(part)
        if line and None not in (line[quantity][0], line[quantity][-1]):
            change = scale * (line[quantity][-1] - line[quantity][0])
            axes.barh(y + 0.8 * offset, change, 0.32, color=shade)
