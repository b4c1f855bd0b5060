"""The models that were looked at, and how often each prefers the right answer."""

from analysis.report.numbers import count, percent, significant
from analysis.report.results import Results, label, lookup
from analysis.report.studies.circuits.labels import task_label
from analysis.report.studies.number_columns import columns_of
from analysis.report.tables import Cell, Column, Table, number_table, row_cells


SIZES = columns_of(count, {"Parameters": "parameters", "Layers": "layers", "Heads": "heads"})
ACCURACY: tuple[Column, ...] = (
    *columns_of(
        percent, {"Accuracy": "accuracy", "Low": "low", "High": "high", "Solved": "solved", "Fitting": "fitting"}
    ),
    *columns_of(significant, {"Clean": "clean", "Corrupted": "corrupted"}),
    ("Examples", "total", count),
)


def sizes(results: Results) -> Table:
    """What was looked at."""
    rows = []
    for model in lookup(results, "models") or []:
        tasks = ", ".join(map(task_label, lookup(results, "circuits", model, "tasks") or {}))
        rows.append([*row_cells(results, [model], ("circuits", model), SIZES), Cell(tasks)])
    left_out = [reason for tasks in (lookup(results, "left_out") or {}).values() for reason in tasks.values()]
    note = f"Left out: {'; '.join(left_out)}." if left_out else "No task was left out."
    return Table("Models", ["Model", "Parameters", "Layers", "Heads", "Tasks"], rows, note)


def accuracies(results: Results) -> Table:
    """How often each model prefers the right answer."""
    rows = [
        ([label(model), task_label(task)], ("accuracy", model, task))
        for model, tasks in (lookup(results, "accuracy") or {}).items()
        for task in tasks
    ]
    note = (
        "Clean, corrupted: mean logit difference after either prompt. Fitting: drawn examples whose tokens keep their "
        "positions with this tokenizer; the others are not counted."
    )
    title = "Right answer before the wrong one, on test examples"
    return number_table(results, title, ["Model", "Task"], ACCURACY, rows, note)
