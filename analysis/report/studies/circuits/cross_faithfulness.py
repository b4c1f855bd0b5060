"""Whether one model's circuit works in another."""

from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from analysis.report.numbers import count, fixed
from analysis.report.results import Results, label
from analysis.report.section import Section
from analysis.report.studies.circuits.labels import (
    SMALLEST,
    capital,
    models_of_change,
    needs_of_tasks,
    of_tasks,
    task_label,
)
from analysis.report.studies.circuits.panels import grid, without_frame
from analysis.report.studies.number_columns import with_suffixed_ends
from analysis.report.tables import Column, Table, number_table


COLUMNS: tuple[Column, ...] = (*with_suffixed_ends("CPR", fixed, "cpr"), (SMALLEST, "smallest", count))


def figure(results: Results) -> Figure:
    """CPR of the circuit of each model (rows) in each model (columns), one map for each task."""
    tasks, models = of_tasks(results, "cross_faithfulness"), models_of_change(results)
    drawing, axes = grid(len(tasks), 1.0 + 0.33 * len(models), sharey=True)
    for panel, (task, cross) in zip(axes, tasks.items(), strict=True):
        _draw_map(panel, np.array([[cross[one][other]["cpr"] for other in models] for one in models]))
        names, middles = [label(name) for name in models], [i + 0.5 for i in range(len(models))]
        panel.set_xticks(middles, names, rotation=30, ha="right", fontsize=9)
        panel.set_yticks(middles, names, fontsize=9)
        panel.set_ylim(len(models), 0)
        panel.set_title(task_label(task), weight="bold")
        without_frame(panel)
    drawing.supxlabel("run in", fontsize=11)
    drawing.supylabel("circuit of", fontsize=11)
    return drawing


def _draw_map(axes: Axes, values: np.ndarray) -> None:
    top = max(1.0, values.max())
    axes.pcolormesh(values, cmap="Blues", norm=Normalize(0, top), edgecolors="white")
    for (row, column), cpr in np.ndenumerate(values):
        shade = "white" if cpr > 0.6 * top else "black"
        axes.text(column + 0.5, row + 0.5, fixed(cpr, 2), ha="center", va="center", fontsize=9.5, color=shade)


def caption(results: Results) -> str:
    """How much of its own circuit's CPR each model keeps with the base's circuit."""
    (base, *others), tasks = models_of_change(results), of_tasks(results, "cross_faithfulness").values()
    clauses = []
    for other in others:
        of_base, own = (fixed(fmean(cross[one][other]["cpr"] for cross in tasks), 2) for one in (base, other))
        clauses.append(f"in {label(other)} the circuit of {label(base)} has a mean CPR of {of_base}, its own {own}")
    return f"{capital('; '.join(clauses))}."


def table(results: Results) -> Table:
    """The matrix with its intervals."""
    rows = [
        (
            [task_label(task), f"{label(one)} in {label(other)}"],
            ("change", "tasks", task, "cross_faithfulness", one, other),
        )
        for task, cross in of_tasks(results, "cross_faithfulness").items()
        for one, others in cross.items()
        for other in others
    ]
    return number_table(results, "Circuits of one model in another", ["Task", "Circuit of, run in"], COLUMNS, rows)


def section(results: Results) -> Section:
    title, needs = "Does one model's circuit work in another", needs_of_tasks(results, "cross_faithfulness")
    return Section("cross-faithfulness", title, needs, figure, caption, numbers=[table])
