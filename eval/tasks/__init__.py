"""Tasks by name. A task of your own is named by its dotted path, "package.module:attribute"."""

import importlib
from difflib import get_close_matches

from eval.errors import UserError
from eval.tasks.arithmetic import Arithmetic
from eval.tasks.base import Score, Task
from eval.tasks.countdown import Countdown
from eval.tasks.four_choice import FourChoice
from eval.tasks.yes_no import YesNo


__all__ = ["TASKS", "Score", "Task", "get_task"]

TASKS: dict[str, Task] = {task.name: task for task in (Countdown(), Arithmetic(), FourChoice(), YesNo())}


def get_task(name: str) -> Task:
    """The task called `name`, or the object at the dotted path "package.module:attribute"."""
    if name in TASKS:
        return TASKS[name]
    if ":" in name:
        module_name, attribute = name.split(":", 1)
        try:
            return vars(importlib.import_module(module_name))[attribute]
        except ModuleNotFoundError as error:
            raise UserError(f"task {name!r}: cannot import {module_name} ({error}); check the dotted path") from error
        except KeyError as error:
            raise UserError(f"task {name!r}: {module_name} has no {attribute!r}; check the dotted path") from error
    close = get_close_matches(name, TASKS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UserError(f"unknown task {name!r}; {hint}known tasks: {', '.join(TASKS)}, or package.module:attribute")
