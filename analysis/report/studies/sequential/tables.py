"""The tables of a sequential run. Every number in them is one value of `results.json`, and says which."""

from collections.abc import Callable

from analysis.report.numbers import count, fixed, percent, points, significant
from analysis.report.results import Location, Results, lookup
from analysis.report.studies.sequential.figures import METRIC_LABELS, PREDICTOR_LABELS, arms, called, pair_words
from analysis.report.tables import Cell, Table, value


ENDS = ("value", "low", "high")
# Metrics that are an accuracy; the others are differences of accuracies.
ACCURACIES = ("average_accuracy", "learning_accuracy")
REFERENCE_LABELS = {"step": "Model before the stage", "base": "Model before all stages"}


def matrices(results: Results) -> Table:
    """Accuracy of every arm on every column before the first task and after each."""
    tasks, columns = lookup(results, "tasks") or [], lookup(results, "columns") or []
    rows = [
        [
            Cell(called(arm)),
            Cell(called(tasks[row - 1]) if row else "before"),
            *(
                value(results, ("continual", "matrix", arm, end, str(row), str(column)), percent)
                for column in range(len(columns))
                for end in ENDS
            ),
        ]
        for arm in arms(results)
        for row in range(len(tasks) + 1)
    ]
    names = [name for column in columns for name in (called(column), "Low", "High")]
    return Table("Accuracy after each task, mean over seeds", ["Arm", "After", *names], rows)


def metrics(results: Results) -> Table:
    """Every metric of every arm."""
    rows = [
        [Cell(words), Cell(called(arm)), *_three(results, ("continual", "metrics", arm, name), _writer(name))]
        for name, words in METRIC_LABELS.items()
        for arm in arms(results)
        if lookup(results, "continual", "metrics", arm, name)
    ]
    return Table("Metrics of continual learning", ["Metric", "Arm", "Value", "Low", "High"], rows)


def differences(results: Results) -> Table:
    """Paired differences of metrics and of final accuracies."""
    rows = []
    for pair, found in (lookup(results, "continual", "pairs") or {}).items():
        at = ("continual", "pairs", pair)
        rows += [
            [Cell(pair_words(pair)), Cell(words), *_three(results, (*at, "metrics", name), points)]
            for name, words in METRIC_LABELS.items()
            if found["metrics"][name]
        ]
        rows += [
            [
                Cell(pair_words(pair)),
                Cell(f"{called(column)}, at the end"),
                *_three(results, (*at, "final", column), points),
            ]
            for column in found["final"]
        ]
    return Table("Differences on the same test items", ["Arms", "Quantity", "Difference", "Low", "High"], rows)


def forgetting(results: Results) -> Table:
    """How far each task fell from its best."""
    rows = [
        [Cell(called(arm)), Cell(called(task)), *_three(results, ("continual", "forgetting", arm, task), points)]
        for arm, tasks in (lookup(results, "continual", "forgetting") or {}).items()
        for task in tasks
    ]
    return Table("Forgetting by task", ["Arm", "Task", "Forgetting", "Low", "High"], rows)


def relations(results: Results) -> Table:
    """How well each predictor ranks the stages by their loss on the other tasks."""
    rows = []
    for reference, words in REFERENCE_LABELS.items():
        for group, predictors in (lookup(results, "continual", "drift", reference) or {}).items():
            for name in predictors:
                at = ("continual", "drift", reference, group, name)
                minus = _three(results, (*at, "forward_minus"), fixed_two)
                rows.append(
                    [
                        Cell(f"{words}, {'all arms' if group == 'all' else f'arms of {called(group)}'}"),
                        Cell(PREDICTOR_LABELS[name]),
                        *_three(results, (*at, "correlation"), fixed_two),
                        *minus,
                        value(results, (*at, "fit", "r_squared"), fixed_two),
                        value(results, (*at, "points"), count),
                        value(results, (*at, "chains"), count),
                    ]
                )
    columns = [
        "Against",
        "Predictor",
        "Rank corr.",
        "Low",
        "High",
        "Forward KL minus it",
        "Low",
        "High",
        "R\N{SUPERSCRIPT TWO} of the fit",
        "Stages",
        "Chains",
    ]
    return Table("Drift of a stage and its loss on the other tasks", columns, rows)


def budget(results: Results) -> Table:
    """What each arm spent on each task, in all units."""
    rows = []
    for arm, spent in (lookup(results, "continual", "budget") or {}).items():
        at = ("continual", "budget", arm)
        rows += [
            [
                Cell(called(arm)),
                Cell(words),
                *(value(results, (*at, *key, unit), write) for unit, write in UNITS.items()),
            ]
            for words, key in [*((called(task), ("tasks", task)) for task in spent["tasks"]), ("all", ("total",))]
        ]
    matched, amount = lookup(results, "match"), lookup(results, "budget")
    note = (
        f"Means over seeds. Matched: {matched}" + (f", {count(amount)} a task." if amount else ".") if matched else ""
    )
    return Table("Budget", ["Arm", "Task", "Completions", "Tokens generated", "Seconds", "Steps"], rows, note)


def fixed_two(number: float | None) -> str:
    return fixed(number, 2)


UNITS: dict[str, Callable[[float | None], str]] = {
    "completions": count,
    "tokens": count,
    "seconds": significant,
    "steps": count,
}


def _three(results: Results, at: Location, write: Callable[..., str]) -> list[Cell]:
    return [value(results, (*at, end), write) for end in ENDS]


def _writer(metric: str) -> Callable[[float | None], str]:
    return percent if metric in ACCURACIES else points
