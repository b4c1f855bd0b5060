"""Several methods at the same budget: their YAML files with what a study decides for all of them.

A budget is a number of completions; or of tokens or seconds, with `stop_at_tokens` or `stop_at_seconds` among the
shared options. Then `completions` is an upper bound, and what is left over of a whole step is dropped.
"""

from collections.abc import Callable
from typing import Any

from eval.errors import UserError
from trainers.arguments import from_yaml
from trainers.es.config import ESConfig
from trainers.grpo import GRPOArguments, GRPOConfig
from trainers.sft import SFTArguments, SFTConfig


def es_at_budget(path: str, completions: int, max_new_tokens: int, **shared: Any) -> ESConfig:
    """The ES run of `path` with as many steps as `completions` hold; `shared` options go before those of the file."""
    options = shared | {"max_new_tokens": max_new_tokens}
    (es,) = _whole_steps(path, (ESConfig,), options, completions, "steps", lambda es: es.completions_per_step)
    return es


def grpo_at_budget(
    path: str, completions: int, max_new_tokens: int, **shared: Any
) -> tuple[GRPOArguments, GRPOConfig]:
    """The GRPO run of `path` with as many optimiser steps as `completions` hold."""

    def per_step(_: GRPOArguments, grpo: GRPOConfig) -> float:
        return grpo.completions_per_step

    options = shared | {"max_completion_length": max_new_tokens}
    return _whole_steps(path, (GRPOArguments, GRPOConfig), options, completions, "max_steps", per_step)


def sft_at_budget(path: str, completions: int, max_new_tokens: int, **shared: Any) -> tuple[SFTArguments, SFTConfig]:
    """The run of `path` on the right ones of so many completions: as many problems as they hold."""
    options = shared | {"max_completion_length": max_new_tokens}
    return _whole_steps(path, (SFTArguments, SFTConfig), options, completions, "problems", lambda sft, _: sft.samples)


def _whole_steps(
    path: str,
    types: tuple[type, ...],
    options: dict[str, Any],
    completions: int,
    counted: str,
    per_step: Callable[..., float],
) -> tuple:
    """The configs of `path` with the option `counted` set to how many steps of `per_step(*configs)` there are."""
    one = from_yaml(path, types, options | {counted: 1})
    size = per_step(*one)
    upper_bound = bool(one[0].stop_at_tokens or one[0].stop_at_seconds)
    if completions < size or (completions % size and not upper_bound):
        raise UserError(
            f"the budget of {completions} completions is not a whole number of steps of {size:g} as {path} has "
            "them; change completions, or the batch in that file"
        )
    return from_yaml(path, types, options | {counted: int(completions // size)})
