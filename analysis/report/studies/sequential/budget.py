"""What each arm spent on each task."""

from analysis.report.numbers import count, significant
from analysis.report.results import Results, lookup
from analysis.report.studies.number_columns import columns_of
from analysis.report.studies.sequential.arms import called
from analysis.report.tables import Table, number_table


COLUMNS = [
    *columns_of(count, {"Completions": "completions", "Tokens generated": "tokens"}),
    *[("Seconds", "seconds", significant), ("Steps", "steps", count)],
]


def table(results: Results) -> Table:
    """What each arm spent on each task, in all units."""
    rows = []
    for arm, spent in (lookup(results, "continual", "budget") or {}).items():
        at = ("continual", "budget", arm)
        rows += [([called(arm), called(task)], (*at, "tasks", task)) for task in spent["tasks"]]
        rows.append(([called(arm), "all"], (*at, "total")))
    matched, amount = lookup(results, "match"), lookup(results, "budget")
    note = ""
    if matched:
        note = f"Means over seeds. Matched: {matched}{f', {count(amount)} a task' if amount else ''}."
    return number_table(results, "Budget", ["Arm", "Task"], COLUMNS, rows, note)
