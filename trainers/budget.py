"""Several methods at the same budget: their YAML files with what a study decides for all of them.

A budget is a number of completions; or of tokens or seconds, with `stop_at_tokens` or `stop_at_seconds` among the
shared options. Then `completions` is an upper bound, and what is left over of a whole step is dropped.
"""

from typing import Any

from eval.errors import UserError
from trainers.arguments import parse
from trainers.es.train import ESConfig
from trainers.grpo import GRPOArguments, GRPOConfig
from trainers.sft import SFTArguments, SFTConfig


def es_at_budget(path: str, completions: int, max_new_tokens: int, **shared: Any) -> ESConfig:
    """The ES run of `path` with as many steps as `completions` hold; `shared` options go before those of the file."""
    arguments = ["--config", path, *_flags(shared | {"max_new_tokens": max_new_tokens})]
    (one,) = parse(ESConfig, arguments=[*arguments, "--steps", "1"])
    steps = _whole_steps(completions, one.completions_per_step, path, one)
    (es,) = parse(ESConfig, arguments=[*arguments, "--steps", str(steps)])
    return es


def grpo_at_budget(
    path: str, completions: int, max_new_tokens: int, **shared: Any
) -> tuple[GRPOArguments, GRPOConfig]:
    """The GRPO run of `path` with as many optimiser steps as `completions` hold."""
    arguments = ["--config", path, *_flags(shared | {"max_completion_length": max_new_tokens})]
    extra, one = parse(GRPOArguments, GRPOConfig, arguments=[*arguments, "--max_steps", "1"])
    # A generation of generation_batch_size completions lasts for generate_every micro-steps.
    per_step = one.generation_batch_size * one.gradient_accumulation_steps / one.generate_every
    steps = _whole_steps(completions, per_step, path, extra)
    return parse(GRPOArguments, GRPOConfig, arguments=[*arguments, "--max_steps", str(steps)])


def sft_at_budget(path: str, completions: int, max_new_tokens: int, **shared: Any) -> tuple[SFTArguments, SFTConfig]:
    """The run of `path` on the right ones of so many completions: as many problems as they hold."""
    arguments = ["--config", path, *_flags(shared | {"max_completion_length": max_new_tokens})]
    one, _ = parse(SFTArguments, SFTConfig, arguments=arguments)
    problems = _whole_steps(completions, one.samples, path, one)
    return parse(SFTArguments, SFTConfig, arguments=[*arguments, "--problems", str(problems)])


def _flags(options: dict[str, Any]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def _whole_steps(completions: int, per_step: float, path: str, stops: ESConfig | GRPOArguments | SFTArguments) -> int:
    upper_bound = bool(stops.stop_at_tokens or stops.stop_at_seconds)
    if completions < per_step or (completions % per_step and not upper_bound):
        raise UserError(
            f"the budget of {completions} completions is not a whole number of steps of {per_step:g} as {path} has "
            "them; change completions, or the batch in that file"
        )
    return int(completions // per_step)
