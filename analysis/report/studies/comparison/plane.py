"""Reward and loss over the plane through three models."""

import numpy as np
from matplotlib.figure import Figure

from analysis.report.numbers import count, percent, significant
from analysis.report.results import Results, label, models
from analysis.report.section import Section
from analysis.report.sentences import join
from analysis.report.style import INK, canvas, colour, write_beside


LEVELS = 12


def section() -> Section:
    return Section(
        name="plane",
        title="On the plane through the models",
        needs=[("plane",)],
        on_demand=True,
        figure=figure,
        caption=caption,
    )


def figure(results: Results) -> Figure:
    """Reward and loss over the plane through three models, interpolated between the measured points (small dots)."""
    plane = results["plane"]
    quantities = [("reward", 100, "Reward (% of examples fully right)", "viridis")]
    if not any(value is None for row in plane["loss"] for value in row):
        quantities.append(("loss", 1, "Loss (nats per token)", "magma_r"))
    drawing, panels = canvas(3.6 * len(quantities), len(quantities), squeeze=False, sharex=True)
    origin, a, b = map(label, plane["corners"])
    frame = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5}
    for axes, (quantity, scale, name, colours) in zip(panels[:, 0], quantities, strict=True):
        values = scale * np.array(plane[quantity], dtype=np.float64)
        image = axes.contourf(plane["xs"], plane["ys"], values, LEVELS, cmap=colours)
        axes.contour(plane["xs"], plane["ys"], values, LEVELS, colors="white", linewidths=0.4, alpha=0.6)
        xs, ys = np.meshgrid(plane["xs"], plane["ys"])
        axes.plot(xs, ys, ".", color="white", markersize=2, alpha=0.7)
        drawing.colorbar(image, ax=axes, label=name, pad=0.02)
        for model, at in plane["models"].items():
            mark = {"markersize": 9, "markeredgecolor": "white", "markeredgewidth": 1.6}
            axes.plot(at["x"], at["y"], "o", color=colour(model, models(results)), **mark)
            write_beside(axes, label(model), (at["x"], at["y"]), (7, 7), weight="bold", color=INK, bbox=frame)
        axes.set_ylabel(f"Towards {b},\northogonal to the other axis")
    axes.set_xlabel(f"From {origin} towards {a} (distances of weights)")
    return drawing


def caption(results: Results) -> str:
    """Where on the measured grid the reward is best, and what the corners have."""
    plane = results["plane"]
    grid = [
        (reward, x, y)
        for y, row in zip(plane["ys"], plane["reward"], strict=True)
        for x, reward in zip(plane["xs"], row, strict=True)
    ]
    best, x, y = max(grid)
    listed = join([f"{label(name)} {percent(at['reward'], 0)}" for name, at in plane["models"].items()])
    return (
        f"The corners have {listed}; the best of the {len(grid)} points of the grid, at ({significant(x)}, "
        f"{significant(y)}), has {percent(best, 0)} of {count(plane['size'])} examples."
    )
