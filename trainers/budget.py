"""ES and GRPO at the same number of completions: their YAML files with what a study decides for both."""

from typing import Any

from eval.errors import UserError
from trainers.arguments import parse
from trainers.es.train import ESConfig
from trainers.grpo import GRPOArguments, GRPOConfig


def es_at_budget(path: str, completions: int, max_new_tokens: int, **shared: Any) -> ESConfig:
    """The ES run of `path` with as many steps as `completions` hold; `shared` options go before those of the file."""
    arguments = ["--config", path, *_flags(shared | {"max_new_tokens": max_new_tokens})]
    (one,) = parse(ESConfig, arguments=[*arguments, "--steps", "1"])
    steps = _whole_steps(completions, one.completions_per_step, path)
    (es,) = parse(ESConfig, arguments=[*arguments, "--steps", str(steps)])
    return es


def grpo_at_budget(
    path: str, completions: int, max_new_tokens: int, **shared: Any
) -> tuple[GRPOArguments, GRPOConfig]:
    """The GRPO run of `path` with as many optimiser steps as `completions` hold."""
    arguments = ["--config", path, *_flags(shared | {"max_completion_length": max_new_tokens})]
    _, one = parse(GRPOArguments, GRPOConfig, arguments=[*arguments, "--max_steps", "1"])
    # A generation of generation_batch_size completions lasts for generate_every micro-steps.
    per_step = one.generation_batch_size * one.gradient_accumulation_steps / one.generate_every
    steps = _whole_steps(completions, per_step, path)
    return parse(GRPOArguments, GRPOConfig, arguments=[*arguments, "--max_steps", str(steps)])


def _flags(options: dict[str, Any]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def _whole_steps(completions: int, per_step: float, path: str) -> int:
    if completions < per_step or completions % per_step:
        raise UserError(
            f"the budget of {completions} completions is not a whole number of steps of {per_step:g} as {path} has "
            "them; change completions, or the batch in that file"
        )
    return round(completions / per_step)
