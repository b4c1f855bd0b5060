"""Each task from stage to stage."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.report.numbers import percent
from analysis.report.results import Results
from analysis.report.section import Section
from analysis.report.studies.sequential.arm_marks import legend, legend_height, look
from analysis.report.studies.sequential.arms import arms, called, main_arms
from analysis.report.studies.sequential.intervals import ENDS
from analysis.report.style import GREY, canvas


PER_ROW = 2


def figure(results: Results) -> Figure:
    """Accuracy of each column from stage to stage, one panel for each, the main arms with their intervals.

    A dotted line marks the stage that trained on the task of the panel.
    """
    trained, columns = len(results["tasks"]), results["columns"]
    down = -(-len(columns) // PER_ROW)
    height = 0.6 + legend_height(arms(results)) + 1.75 * down
    drawing, grid = canvas(height, down, PER_ROW, squeeze=False, sharex=True)
    panels = list(grid.flat)
    for j, (axes, column) in enumerate(zip(panels, columns, strict=False)):
        if j < trained:
            axes.axvline(j + 1, color=GREY, linestyle=(0, (1, 1.5)), linewidth=1.4)
        for arm in arms(results):
            _draw_arm(axes, results, arm, j)
        axes.set_title(called(column) if j < trained else f"{called(column)} (never trained)", weight="bold")
        axes.set_xticks(range(trained + 1), ["before", *map(str, range(1, trained + 1))])
        axes.grid(axis="y")
    for spare in panels[len(columns) :]:
        spare.set_visible(False)
        # The panel above the empty place carries the numbers of the stages.
        panels[len(columns) - PER_ROW].tick_params(axis="x", labelbottom=True)
    drawing.supxlabel("Stages trained", fontsize=11)
    drawing.supylabel("Accuracy (%)", fontsize=11)
    legend(drawing, results)
    return drawing


def _draw_arm(axes: Axes, results: Results, arm: str, column: int) -> None:
    """The accuracy of one arm on column number `column`, with its interval if it is a main arm."""
    shade, line, marker = look(results, arm)
    matrix = results["continual"]["matrix"][arm]
    value, low, high = (100 * np.array(matrix[end])[:, column] for end in ENDS)
    is_main = arm in main_arms(results)
    width, size = (2.2, 5) if is_main else (1.3, 3.5)
    stages = range(len(value))
    if is_main:
        axes.fill_between(stages, low, high, color=shade, alpha=0.14, linewidth=0)
    axes.plot(stages, value, color=shade, linestyle=line, marker=marker, linewidth=width, markersize=size)


def caption(results: Results) -> str:
    """Where a task stands when the stages after its own are over."""
    tasks = results["tasks"]
    text = "Dotted: the stage that trained on the task of the panel. Bands: 95 % intervals of the main arms."
    if len(tasks) < 2:
        return text
    clauses = []
    for arm in main_arms(results):
        before, after, *_, last = (percent(row[0], 0) for row in results["continual"]["matrix"][arm]["value"])
        clauses.append(f"{called(arm)} takes it from {before} to {after} and ends with {last}")
    return f"{text} {called(tasks[0])}, the first task: {'; '.join(clauses)}."


SECTION = Section("retention", "Each task from stage to stage", [("continual", "matrix")], figure, caption)
