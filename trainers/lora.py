"""Options of LoRA that peft would pass over in silence are refused here."""

import re
from pathlib import Path

import torch
from transformers import PreTrainedModel

from eval.errors import UserError
from eval.storage import read_json
from trainers.arguments import check_at_least, did_you_mean


def read_lora_patterns(path: str) -> dict[str, dict[str, int]]:
    """{"rank_pattern": {regular expression: rank}, "alpha_pattern": {regular expression: alpha}} of a JSON file.

    Raises UserError if there is no such file, or it holds something else.
    """
    if not Path(path).is_file():
        raise UserError(f"lora_patterns: there is no file {path}; recipes/circuits.py writes such files")
    try:
        patterns = read_json(Path(path))
        for name in ("rank_pattern", "alpha_pattern"):
            for pattern, value in patterns[name].items():
                re.compile(pattern)
                check_at_least(f"{path}: {name} of {pattern!r}", value, 1)
    except (ValueError, TypeError, KeyError, AttributeError, re.error) as error:
        raise UserError(
            f'lora_patterns: {path} is not {{"rank_pattern": {{regular expression: rank}}, "alpha_pattern": ...}} '
            f"({type(error).__name__}: {error})"
        ) from error
    return {name: patterns[name] for name in ("rank_pattern", "alpha_pattern")}


def check_lora_targets(model: PreTrainedModel, targets: list[str]) -> None:
    """Raise `UserError` for a name that no linear layer below the head has; PEFT only does if no name fits."""
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    below_head = [name for name in linear if model.get_submodule(name) is not model.get_output_embeddings()]
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in below_head):
            names = {name.split(".")[-1] for name in below_head}
            raise UserError(
                f"lora_target_modules: the model has no linear layer {target!r} below its head"
                f"{did_you_mean(target, names)}; its layers are {', '.join(sorted(names))}"
            )


def check_lora_patterns(model: PreTrainedModel, path: str) -> None:
    """Raise `UserError` for a pattern that fits no linear layer of the model; PEFT would pass over it."""
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    for name, patterns in read_lora_patterns(path).items():
        for pattern in patterns:
            # As PEFT matches them: the end of a module's name, from a dot on.
            if not any(re.fullmatch(rf"(.*\.)?({pattern})", module) for module in linear):
                raise UserError(
                    f"lora_patterns: {name} {pattern!r} of {path} fits no linear layer of this model; "
                    "take the file that belongs to it"
                )
