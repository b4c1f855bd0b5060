"""Accuracy of every arm on every column, before the first task and after each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.report.numbers import percent
from analysis.report.results import Results, lookup
from analysis.report.section import Section, Terms
from analysis.report.studies.sequential.arm_marks import SHORT_NAME, look
from analysis.report.studies.sequential.arms import arms, called, columns, controls, main_arms
from analysis.report.studies.sequential.intervals import ENDS, span
from analysis.report.style import INK, canvas
from analysis.report.tables import Cell, Table, value


# Matrices of this many columns have room beside each other with an interval in each cell; wider ones stand below.
COLUMNS_BESIDE = 5
COLUMNS_WITH_INTERVALS = 8
# Red over white to blue, without the dark ends, on which black numbers could not be read.
CHANGE = ListedColormap(colormaps["RdBu"](np.linspace(0.2, 0.8, 256)), "change")
IN_CELL = {"ha": "center", "va": "center", "color": "black"}


def figure(results: Results, shown: Sequence[str]) -> Figure:
    """Accuracy in percent with its interval, a row for each stage; the colour is the change from before all training.

    A frame marks the task that the stage of its row trained on.
    """
    tasks, width = results["tasks"], len(results["columns"])
    short = max(len(called(task)) for task in tasks) <= SHORT_NAME
    beside = len(shown) > 1 and width <= COLUMNS_BESIDE and short
    per_row = 2 if beside else 1
    down = -(-len(shown) // per_row)
    height = 0.35 + down * (1.15 + 0.47 * (len(tasks) + 1))
    drawing, grid = canvas(height, down, per_row, squeeze=False, sharey=True)
    axes = list(grid.flat)
    matrices = {arm: results["continual"]["matrix"][arm] for arm in shown}
    changes = {arm: np.array(matrix["value"]) - np.array(matrix["value"])[0] for arm, matrix in matrices.items()}
    reach = 100 * max(0.1, *(float(np.abs(change).max()) for change in changes.values()))
    scale = Normalize(-reach, reach)
    small = 8.5 if beside and width == COLUMNS_BESIDE else 9.0
    image: ScalarMappable | None = None
    for panel, (arm, matrix) in zip(axes, matrices.items(), strict=False):
        image = panel.pcolormesh(100 * changes[arm], norm=scale, cmap=CHANGE, edgecolors="white", linewidth=1)
        _write_cells(panel, matrix, small if width <= COLUMNS_WITH_INTERVALS else None)
        panel.set_title(called(arm), weight="bold", color=look(results, arm)[0])
        _name_rows_and_columns(panel, results)
    for spare in axes[len(shown) :]:
        spare.set_visible(False)
    for panel in axes[: len(shown) : per_row]:
        panel.set_ylabel("After training on")
    place = {"location": "bottom", "shrink": 0.7, "aspect": 34, "pad": 0.02}
    drawing.colorbar(image, ax=drawing.axes, label="Change from before all training (points)", **place)
    return drawing


def _write_cells(axes: Axes, matrix: Mapping[str, Any], small: float | None) -> None:
    """Each value and, in the size `small`, its interval; None: there is no room for one."""
    for (row, column), accuracy in np.ndenumerate(100 * np.array(matrix["value"])):
        low, high = (100 * matrix[end][row][column] for end in ("low", "high"))
        y = row + (0.5 if small is None else 0.36)
        axes.text(column + 0.5, y, f"{accuracy:.0f}", fontsize=11, weight="bold", **IN_CELL)
        if small is not None:
            axes.text(column + 0.5, row + 0.74, f"{low:.0f}\N{EN DASH}{high:.0f}", fontsize=small, **IN_CELL)


def _name_rows_and_columns(axes: Axes, results: Results) -> None:
    """Tasks down, columns across, and a frame around each cell of a task right after its own training."""
    tasks, names = results["tasks"], [called(column) for column in results["columns"]]
    for k in range(len(tasks)):
        axes.add_patch(Rectangle((k + 0.03, k + 1.03), 0.94, 0.94, fill=False, edgecolor=INK, linewidth=1.8))
    slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks([i + 0.5 for i in range(len(names))], names, **slanted)
    axes.set_yticks([i + 0.5 for i in range(len(tasks) + 1)], ["before", *map(called, tasks)])
    axes.set_ylim(len(tasks) + 1, 0)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def caption(results: Results, shown: Sequence[str]) -> str:
    """What each row did to the others."""
    clauses = []
    for arm in shown:
        cells = lookup(results, "continual", "forgetting", arm) or {}
        if cells:
            task = max(cells, key=lambda task: cells[task]["value"])
            clear = cells[task]["low"] > 0
            most = f"{called(task)}, {span(cells[task])}" if clear else "nothing clearly"
            clauses.append(f"{called(arm)} {most}")
    text = (
        "Accuracy in percent with its 95 % interval, mean over seeds. Blue: better than before all training; red: "
        "worse. Framed: the task that was just trained."
    )
    if clauses:
        text += f" Forgotten most: by {'; by '.join(clauses)}."
    left_out = lookup(results, "continual", "left_out") or {}
    if left_out:
        text += f" Left out: {'; '.join(f'{chain} ({reason})' for chain, reason in left_out.items())}."
    return text


def table(results: Results) -> Table:
    """Every cell of every matrix."""
    after = ["before", *map(called, lookup(results, "tasks") or [])]
    cells = [(str(column), end) for column in range(len(columns(results))) for end in ENDS]
    rows = [
        [Cell(called(arm)), Cell(words)]
        + [value(results, ("continual", "matrix", arm, end, str(row), column), percent) for column, end in cells]
        for arm in arms(results)
        for row, words in enumerate(after)
    ]
    names = [name for column in columns(results) for name in (called(column), "Low", "High")]
    return Table("Accuracy after each task, mean over seeds", ["Arm", "After", *names], rows)


def terms(results: Results) -> Terms:
    size = lookup(results, "config", "test_size")
    return [
        (
            "Accuracy matrix R",
            "R[k, j]: mean score on held-out items of column j after the k-th of T trainings; row 0 is the model "
            f"before all training. The items{f', at most {size} a column,' if size else ''} are the same for every "
            "row, seed and arm. Answers that could not be scored count in nothing.",
        )
    ]


MAIN = Section(
    name="matrices",
    title="Accuracy after each task",
    needs=[("continual", "matrix")],
    figure=lambda results: figure(results, main_arms(results)),
    caption=lambda results: caption(results, main_arms(results)),
    numbers=[table],
    terms=terms,
)
CONTROLS = Section(
    name="control-matrices",
    title="The same with control arms",
    needs=[("continual", "matrix")],
    figure=lambda results: figure(results, controls(results)),
    caption=lambda results: caption(results, controls(results)),
    on_demand=True,
    drawable=lambda results: bool(controls(results)),
)
