"""Reward functions in TRL's signature: what is called, with what, and which answers of it are taken.

    reward(prompts, completions, completion_ids, **columns) -> list[float | None]

A function names of these what it needs; one that is `async` is awaited. None means that it has no opinion of that
completion.
"""

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from eval.errors import UserCodeError, UserError
from eval.tasks.scorers import SCORERS, Scorer
from eval.tasks.user_code import load_attribute, user_traceback


Row = dict[str, Any]
# What TRL passes besides the columns of the data.
OF_THE_TRAINER = ("trainer_state", "log_extra", "log_metric", "environments")
GIVEN = ("prompts", "completions", "completion_ids", *OF_THE_TRAINER)
# Of a completion, in a message.
SHOWN = 200
# Rows that are asked again one by one for the one at which a function raises.
MOST_ASKED_AGAIN = 256


@dataclass(frozen=True)
class Reward:
    """One reward function with its weight.

    reference: what the user named it by, `file.py:function` or a built-in scorer. answer_column: what a scorer reads.
    """

    name: str
    function: Callable[..., Any] = field(repr=False)
    weight: float = 1.0
    reference: str = ""
    answer_column: str = ""

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        texts: Sequence[str],
        completion_ids: Sequence[list[int]] | None,
        rows: Sequence[Row],
        given: Mapping[str, Any],
    ) -> list[float | None]:
        """One reward per completion, unweighted.

        texts: the completions as plain text. given: what else TRL passes, by name.

        Raises UserCodeError if the function raises, and UserError if it returns anything but one finite number or None
        per completion.
        """
        if isinstance(self.function, Scorer):
            return self.function(list(texts), [str(row[self.answer_column]) for row in rows])
        columns = {name: [row.get(name) for row in rows] for name in rows[0] if name != "prompt"} if rows else {}
        arguments = {**columns, **dict.fromkeys(OF_THE_TRAINER), **given}
        arguments |= {"prompts": list(prompts), "completions": list(completions)}
        # A score of stored texts has no tokens.
        arguments["completion_ids"] = None if completion_ids is None else list(completion_ids)
        try:
            values = _call(self.function, arguments)
        except UserError:
            raise
        except Exception as error:
            raise self._raised(error, arguments, texts) from error
        return self._checked(values, texts, prompts)

    def _raised(self, error: Exception, arguments: dict[str, Any], texts: Sequence[str]) -> UserCodeError:
        """The error with the first row that raises when it is asked alone, if there is one."""
        where = f"reward {self.reference or self.name} raised {type(error).__name__}: {error}"
        for index in range(min(len(texts), MOST_ASKED_AGAIN)):
            alone = {
                name: value[index : index + 1] if isinstance(value, list) else value
                for name, value in arguments.items()
            }
            try:
                _call(self.function, alone)
            except Exception as again:
                row = {name: value[0] for name, value in alone.items() if isinstance(value, list) and value}
                row = {name: value for name, value in row.items() if name not in ("completions", "completion_ids")}
                details = (
                    f"{user_traceback(again, __file__)}\nrow: {shortened(repr(row), 2 * SHOWN)}\n"
                    f"completion: {shortened(repr(texts[index]))}"
                )
                return UserCodeError(f"{where} (row and completion above); correct it and start again", details)
        details = f"{user_traceback(error, __file__)}\nfirst of {len(texts)} completions: {shortened(repr(texts[0]))}"
        return UserCodeError(f"{where}, on a batch of {len(texts)} and on none of them alone; correct it", details)

    def _checked(self, values: Any, texts: Sequence[str], prompts: Sequence[Any]) -> list[float | None]:
        who = f"reward {self.reference or self.name}"
        values = values.tolist() if hasattr(values, "tolist") else values
        if not isinstance(values, list | tuple):
            raise UserError(f"{who} returned a {type(values).__name__}; return a list, one number per completion")
        if len(values) != len(texts):
            raise UserError(f"{who} returned {len(values)} rewards for {len(texts)} completions; return one for each")
        checked: list[float | None] = []
        for index, value in enumerate(values):
            value = value.item() if hasattr(value, "item") and getattr(value, "size", 1) != 0 else value
            if value is not None and not (isinstance(value, Real) and math.isfinite(value)):
                prompt, text = repr(_last_text(prompts[index])), repr(texts[index])
                raise UserError(
                    f"{who} returned {shortened(repr(value), 40)} for row {index} of {len(texts)} (prompt "
                    f"{shortened(prompt, 60)}, completion {shortened(text, 60)}); return a finite number, or None for "
                    "no opinion"
                )
            checked.append(None if value is None else float(value))
        return checked


def make_reward(reward: Any, weight: float = 1.0, answer_column: str = "") -> Reward:
    """A reward from a function, from `file.py:function` or from the name of a built-in scorer."""
    if not isinstance(weight, Real) or isinstance(weight, bool) or not math.isfinite(weight):
        raise UserError(f"the weight of reward {reward!r} is {weight!r}; give a finite number")
    if isinstance(reward, str):
        reference = reward
        if reward in SCORERS:
            SCORERS[reward].require()
            return Reward(reward, SCORERS[reward], float(weight), reference, answer_column)
        if ":" not in reward:
            raise UserError(
                f"unknown reward {reward!r}; write file.py:function, or one of the scorers {', '.join(SCORERS)}"
            )
        reward = load_attribute(reward)
    else:
        reference = ""
    name = getattr(reward, "__name__", type(reward).__name__)
    if isinstance(reward, type) or not callable(reward):
        kind = "a class" if isinstance(reward, type) else f"a {type(reward).__name__}"
        raise UserError(f"reward {reference or name} is {kind}, no function; name a function")
    return Reward(name, reward, float(weight), reference, answer_column)


def check_signature(reward: Reward, columns: Sequence[str], where: str) -> None:
    """Raise UserError if the function needs a column that the rows do not have."""
    if isinstance(reward.function, Scorer):
        return
    for name, parameter in _parameters(reward.function).items():
        needed = parameter.default is parameter.empty and parameter.kind in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        )
        if parameter.kind is parameter.POSITIONAL_ONLY or (needed and name not in (*GIVEN, *columns)):
            raise UserError(
                f"reward {reward.reference or reward.name} asks for {name!r}, which {where} does not have; it has "
                f"{', '.join(columns) or 'no columns besides the prompt'} (and prompts, completions, completion_ids)"
            )


def shortened(text: str, most: int = SHOWN) -> str:
    """`text` on one line with at most `most` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def _call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    parameters = _parameters(function)
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        arguments = {name: value for name, value in arguments.items() if name in parameters}
    values = function(**arguments)
    return _awaited(values) if inspect.isawaitable(values) else values


def _awaited(awaitable: Any) -> Any:
    """The result, from a loop of its own in a thread of its own: this thread may have a running loop (a notebook)."""

    async def result() -> Any:
        return await awaitable

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, result()).result()


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise UserError(f"reward {function!r} has no readable signature; wrap it in a function") from error


def _last_text(prompt: Any) -> Any:
    return prompt[-1]["content"] if isinstance(prompt, list) and prompt else prompt
