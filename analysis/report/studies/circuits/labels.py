"""What tasks and pairs of models are called in text and figures."""

from typing import Any

from analysis.report.results import Location, Results, label, lookup


TASK_LABELS = {
    "ioi": "IOI",
    "copy_colour": "Copy colour",
    "addition": "Addition",
    "subtraction": "Subtraction",
    "greater_than": "Greater than",
    "docstring": "Docstring",
    "arc_easy": "ARC-Easy",
    "arc_challenge": "ARC-Challenge",
}
# Column of the size of the smallest circuit that is faithful.
SMALLEST = "Smallest, f \N{GREATER-THAN OR EQUAL TO} 0.8"


def task_label(task: str) -> str:
    """ "ioi_short" -> "IOI"; "arc_easy=FILE" -> "ARC-Easy"."""
    name = task.partition("=")[0].removesuffix("_short")
    return TASK_LABELS.get(name, name)


def direction_label(direction: str) -> str:
    """ "base>es" -> "base to ES"; "base>base" -> "base to itself (null)"."""
    one, other = direction.split(">")
    return f"{label(one)} to itself (null)" if one == other else f"{label(one)} to {label(other)}"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def models_of_change(results: Results) -> list[str]:
    """The base model, then what each method made of it; empty where no change was measured."""
    return lookup(results, "change", "models") or []


def of_tasks(results: Results, measure: str) -> dict[str, Any]:
    """{task: what `measure` ("overlap", "transplant", ...) found on it} of the tasks on which it was measured."""
    tasks = lookup(results, "change", "tasks") or {}
    return {task: change[measure] for task, change in tasks.items() if change.get(measure)}


def needs_of_tasks(results: Results, measure: str) -> list[Location]:
    """Where `measure` should stand for each task whose change was looked at."""
    tasks = lookup(results, "change", "tasks") or {}
    return [("change", "tasks", task, measure) for task in tasks] or [("change", "tasks")]
