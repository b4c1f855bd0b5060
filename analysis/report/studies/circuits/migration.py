"""Where the circuits moved: an alignment I + delta between a model before and after."""

from statistics import fmean

from matplotlib.figure import Figure

from analysis.report.numbers import fixed, significant
from analysis.report.results import Results, lookup
from analysis.report.section import Section
from analysis.report.sentences import join
from analysis.report.studies.circuits.labels import direction_label, models_of_change, task_label
from analysis.report.studies.number_columns import columns_of
from analysis.report.studies.terms import explained
from analysis.report.style import GREY, INK, canvas
from analysis.report.tables import Cell, Table, row_cells, value


AT = ("change", "migration")
COLUMNS = columns_of(
    fixed, {"CPR, identity": "identity", "CPR, I + delta": "mapped", "Gain": "gain", "Low": "low", "High": "high"}
)
TERMS = {
    "I + delta": "An alignment between two models of one shape that starts at the identity; delta is kept small by "
    "a penalty. base to itself: from other examples of the same model.",
}


def figure(results: Results) -> Figure:
    """What I + delta adds to the CPR of the old model's ranking in the new model, mean over tasks and task by task."""
    migrations, base = lookup(results, *AT), models_of_change(results)[0]
    drawing, (left, right) = canvas(1.0 + 0.34 * len(migrations), 1, 2, sharey=True)
    for y, (direction, migration) in enumerate(migrations.items()):
        shade = "#9a9a9a" if direction == f"{base}>{base}" else INK
        gains = [task["gain"] for task in migration["tasks"].values()]
        left.barh(y, migration["delta"], 0.6, color=shade)
        right.plot(gains, [y] * len(gains), "|", color=shade, alpha=0.5, markersize=10)
        right.plot(fmean(gains), y, "o", color=shade, markersize=7)
    left.set_yticks(range(len(migrations)), [direction_label(direction) for direction in migrations])
    left.tick_params(axis="y", length=0)
    left.set_ylim(len(migrations) - 0.4, -0.6)
    left.set_xlabel("Size of delta")
    right.set_xlabel("Gain in CPR")
    right.axvline(0, color=GREY, linewidth=1.2)
    for axes in (left, right):
        axes.grid(axis="x")
    return drawing


def caption(results: Results) -> str:
    """Gains against the null."""
    clauses = []
    for direction, migration in lookup(results, *AT).items():
        gain = fmean(task["gain"] for task in migration["tasks"].values())
        clear = [task_label(name) for name, task in migration["tasks"].items() if task["low"] > 0]
        clauses.append(f"{direction_label(direction)} {fixed(gain, 3)}{f' (clear on {join(clear)})' if clear else ''}")
    return (
        "An alignment I + delta from the old scores to the new circuit; a gain of 0 means that every component kept "
        f"its place. Mean gain in CPR: {'; '.join(clauses)}."
    )


def table(results: Results) -> Table:
    """W = I + delta."""
    rows = []
    for direction, migration in (lookup(results, *AT) or {}).items():
        at = (*AT, direction)
        for task in migration["tasks"]:
            words = [Cell(direction_label(direction)), Cell(task_label(task))]
            size = value(results, (*at, "delta"), significant)
            rows.append([*words, size, *row_cells(results, [], (*at, "tasks", task), COLUMNS)])
    columns = ["Direction", "Task", "|delta|", *(heading for heading, _, _ in COLUMNS)]
    return Table("Alignment of circuits before and after", columns, rows)


SECTION = Section(
    "migration", "Where the circuits moved", [AT], figure, caption, numbers=[table], terms=explained(TERMS)
)
