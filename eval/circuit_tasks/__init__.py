"""Circuit tasks by name.

Those that end in `_short` are for the tiny models, which read character by character: their prompts are short, and
names have the same length and different first letters. `arc_easy=FILE` and `arc_challenge=FILE` take the questions
from a local file instead of the hub.
"""

import dataclasses
from difflib import get_close_matches

from eval.circuit_tasks.arc import ARC_CHALLENGE, ARC_EASY
from eval.circuit_tasks.arithmetic import ADDITION, ADDITION_SHORT, SUBTRACTION, SUBTRACTION_SHORT
from eval.circuit_tasks.base import CircuitTask, Example
from eval.circuit_tasks.copy_colour import CopyColour, CopyColourShort
from eval.circuit_tasks.docstring import Docstring, DocstringShort
from eval.circuit_tasks.greater_than import GREATER_THAN_SHORT, GreaterThan
from eval.circuit_tasks.ioi import IOI, IOI_SHORT
from eval.errors import UserError


__all__ = ["CIRCUIT_TASKS", "CircuitTask", "Example", "get_circuit_task"]

CIRCUIT_TASKS: dict[str, CircuitTask] = {
    task.name: task
    for task in (
        IOI(),
        CopyColour(),
        ADDITION,
        SUBTRACTION,
        GreaterThan(),
        Docstring(),
        ARC_EASY,
        ARC_CHALLENGE,
        IOI_SHORT,
        CopyColourShort(),
        ADDITION_SHORT,
        SUBTRACTION_SHORT,
        GREATER_THAN_SHORT,
        DocstringShort(),
    )
}


def get_circuit_task(name: str) -> CircuitTask:
    """The circuit task called `name`, or `name=FILE` for ARC. Raises UserError if there is none."""
    name, _, path = name.partition("=")
    if name not in CIRCUIT_TASKS:
        close = get_close_matches(name, CIRCUIT_TASKS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"unknown circuit task {name!r}; {hint}known circuit tasks: {', '.join(CIRCUIT_TASKS)}")
    if not path:
        return CIRCUIT_TASKS[name]
    for task in (ARC_EASY, ARC_CHALLENGE):
        if task.name == name:
            return dataclasses.replace(task, path=path)
    raise UserError(f"circuit task {name} is generated and takes no file; write {name} alone")
