"""Which components carry the difference between two models."""

import numpy as np
from matplotlib.figure import Figure

from analysis.report.numbers import significant
from analysis.report.results import Results, label
from analysis.report.section import Section
from analysis.report.studies.circuits.labels import models_of_change, needs_of_tasks, of_tasks, task_label
from analysis.report.studies.circuits.panels import grid, legend_above
from analysis.report.studies.number_columns import columns_of
from analysis.report.studies.terms import explained
from analysis.report.style import DOTTED, colour
from analysis.report.tables import Cell, Table, row_cells, value


COLUMNS = columns_of(significant, {"Receiver": "receiver", "Donor": "donor", "20 % of nodes": "circuits.3"})
TERMS = {
    "Transplant": "The receiver runs, but the chosen nodes write what they write in the donor on the same prompt."
}


def figure(results: Results) -> Figure:
    """Logit difference of the base model with the donor's best nodes in it, from none to all."""
    tasks, (base, *donors) = of_tasks(results, "transplant"), models_of_change(results)
    drawing, axes = grid(len(tasks), 2.1, sharex=True)
    for panel, (task, directions) in zip(axes, tasks.items(), strict=True):
        for donor in donors:
            transplant, shade = directions[f"{donor}>{base}"], colour(donor, [base, *donors])
            sizes = np.array([0, *transplant["sizes"]]) / transplant["sizes"][-1] * 100
            line = {"color": shade, "marker": "o", "markersize": 3.5, "label": f"{label(donor)} into {label(base)}"}
            panel.plot(sizes, [transplant["receiver"], *transplant["circuits"]], **line)
            panel.axhline(transplant["donor"], color=shade, linestyle=DOTTED, linewidth=1.2)
        panel.set_title(task_label(task), weight="bold")
        panel.grid(axis="y")
    axes[0].set_ylabel("Logit difference")
    drawing.supxlabel("Donor's best nodes put into the receiver (% of all)", fontsize=11)
    legend_above(drawing, axes[0], 2)
    return drawing


def caption(results: Results) -> str:
    """Which single node carries most of the difference."""
    base, *others = models_of_change(results)
    clauses = []
    for other in others:
        for task, directions in of_tasks(results, "transplant").items():
            transplant, nodes = directions[f"{other}>{base}"], results["change"]["tasks"][task]["nodes"]
            receiver, gap = transplant["receiver"], transplant["donor"] - transplant["receiver"]
            gains = [(of - receiver, name) for of, name in zip(transplant["nodes"], nodes, strict=True)]
            gain, node = max(gains[1:])
            clauses.append(
                f"{label(other)} on {task_label(task)}: {node} alone gives {significant(gain, 2)} of "
                f"{significant(gap, 2)}"
            )
    return (
        f"Dashed: the donor itself. The node of the donor that raises the logit difference of {label(base)} most, "
        f"with the whole difference: {'; '.join(clauses)}."
    )


def table(results: Results) -> Table:
    """What the donor's activations do in the receiver."""
    rows = []
    for task, directions in of_tasks(results, "transplant").items():
        for direction, transplant in directions.items():
            at = ("change", "tasks", task, "transplant", direction)
            donor, receiver = map(label, direction.split(">"))
            best = max(range(1, len(transplant["nodes"])), key=transplant["nodes"].__getitem__)
            rows.append(
                [
                    *row_cells(results, [task_label(task), f"{donor} into {receiver}"], at, COLUMNS),
                    Cell(results["change"]["tasks"][task]["nodes"][best]),
                    value(results, (*at, "nodes", str(best)), significant),
                ]
            )
    columns = ["Task", "Transplant", *(heading for heading, _, _ in COLUMNS), "Best node", "with it"]
    return Table("Logit difference after a transplant of activations", columns, rows)


def section(results: Results) -> Section:
    title, needs = "Which components carry the difference", needs_of_tasks(results, "transplant")
    return Section("transplant", title, needs, figure, caption, numbers=[table], terms=explained(TERMS))
