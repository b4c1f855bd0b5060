"""Tasks by name. A task of your own is named by its dotted path, "package.module:attribute"."""

import importlib
from difflib import get_close_matches

from eval.errors import UserError
from eval.tasks.arithmetic import Arithmetic
from eval.tasks.base import Score, Task
from eval.tasks.boolq import BoolQ
from eval.tasks.conciseness import Conciseness
from eval.tasks.countdown import Countdown
from eval.tasks.countdown_hub import CountdownHub
from eval.tasks.four_choice import FourChoice
from eval.tasks.gsm8k import GSM8K
from eval.tasks.gsm8k_small import GSM8KSmall
from eval.tasks.hendrycks_math import HendrycksMath
from eval.tasks.largest_number import LargestNumber
from eval.tasks.last_word import LastWord
from eval.tasks.longest_word import LongestWord
from eval.tasks.mixture import Mixture
from eval.tasks.reasoning_gym import PREFIX, ReasoningGym
from eval.tasks.sciknoweval import SciKnowEvalChemistry
from eval.tasks.short_countdown import ShortCountdown
from eval.tasks.short_sum import ShortSum
from eval.tasks.word_count import WordCount
from eval.tasks.yes_no import YesNo


__all__ = ["PAPER_TASKS", "SMALL_TASKS", "TASKS", "Score", "Task", "get_task", "known_names"]

# The offline tasks that the tiny models can do.
TASKS: dict[str, Task] = {task.name: task for task in (Countdown(), Arithmetic(), FourChoice(), YesNo())}

# The papers' tasks, for models that have read more than the tiny ones.
PAPER_TASKS: dict[str, Task] = {
    task.name: task
    for task in (CountdownHub(), HendrycksMath(), SciKnowEvalChemistry(), BoolQ(), GSM8K(), Conciseness())
}

SHORT = (LastWord(), LongestWord(), WordCount(), LargestNumber(), ShortSum(), ShortCountdown())
# For instruct models of a hundred million parameters: short prompts, no form but the bare answer, graded.
SMALL_TASKS: dict[str, Task] = {task.name: task for task in (*SHORT, Mixture("short_answers", SHORT), GSM8KSmall())}


# What makes an object a task, see `eval.tasks.base.Task`.
MEMBERS = ("name", "load", "score")


def known_names() -> str:
    """Every way to name a task, for --help and for messages."""
    return f"{', '.join([*TASKS, *PAPER_TASKS, *SMALL_TASKS])}, {PREFIX}NAME, or package.module:attribute"


def get_task(name: str) -> Task:
    """The task called `name`, a `reasoning_gym/<generator>`, or the object at "package.module:attribute"."""
    known = {**TASKS, **PAPER_TASKS, **SMALL_TASKS}
    if name in known:
        return known[name]
    if name.startswith(PREFIX):
        return ReasoningGym(name.removeprefix(PREFIX))
    if ":" in name:
        module_name, attribute = name.split(":", 1)
        try:
            task = vars(importlib.import_module(module_name))[attribute]
        # ValueError, TypeError: no name, half a name, a name that begins with a dot.
        except (ModuleNotFoundError, ValueError, TypeError) as error:
            raise UserError(f"task {name!r}: cannot import {module_name} ({error}); check the dotted path") from error
        except KeyError as error:
            raise UserError(f"task {name!r}: {module_name} has no {attribute!r}; check the dotted path") from error
        if isinstance(task, type) or not all(hasattr(task, member) for member in MEMBERS):
            raise UserError(
                f"task {name!r} is {'a class' if isinstance(task, type) else f'a {type(task).__name__}'}, no task: "
                f"an object with {', '.join(MEMBERS)}; name one, such as my_tasks:TASK"
            )
        return task
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UserError(f"unknown task {name!r}; {hint}known tasks: {known_names()}")
