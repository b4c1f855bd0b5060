"""The names of TRL's `GRPOConfig` in `ESConfig(...)`: what a GRPO script says, in the options of evolution strategies.

A step of GRPO answers generation_batch_size / num_generations prompts with num_generations completions each, which
are compared with one another. Here the members of a population answer the same prompts and are compared: so
`num_generations` is the population, and the prompts of a step are as many as GRPO's, with as many completions.
"""

import functools
import os
import sys
from typing import Any, TypeVar

from eval.errors import UserError
from trainers.arguments import MOST, did_you_mean
from trainers.launch import is_main_process


# What has another name here, and the same meaning.
OTHER_NAMES = {
    "max_steps": "steps",
    "eval_steps": "eval_every",
    "save_steps": "save_every",
    "save_total_limit": "keep",
    "max_completion_length": "max_new_tokens",
    "num_generations": "population",
}
# What makes the number of prompts in a step: taken together below.
BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation", "generation_batch_size")
# Of the sampling: the engines here know temperature alone. Values that say nothing are let pass.
SAMPLING = {
    "top_p": (1.0,),
    "top_k": (0, -1, None),
    "min_p": (0.0, None),
    "repetition_penalty": (1.0,),
    "generation_kwargs": ({}, None),
    "chat_template_kwargs": ({}, None),
    "cache_implementation": (None,),
    "tools": (None,),
}
STRATEGIES = ("eval_strategy", "save_strategy", "logging_strategy")
# Of what GRPO needs and a search without gradients has not; what else GRPOConfig has is named in a note.
SAID_BY_OTHERS = {"learning_rate": "alpha is the step size", "beta": "anchor holds the weights near the start"}

Config = TypeVar("Config", bound=type)


def takes_names_of_grpo(config_type: Config) -> Config:
    """Let a dataclass of options be made with the names of TRL's `GRPOConfig` as well; model and output_dir may lack.

    The fields stay as they are: YAML files, --help and config.yaml know the names of the fields alone.
    """
    changed: Any = config_type
    declared = changed.__init__

    @functools.wraps(declared)
    def make(self, model: str = "", output_dir: str = "", *values: Any, **options: Any) -> None:
        known = {*config_type.__dataclass_fields__}
        declared(self, model, output_dir, *values, **own_names(options, known))

    changed.__init__ = make
    return config_type


def own_names(options: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """`options` by the names of the fields in `known`.

    Raises `UserError` for an option that neither knows, one given under both names, and one that asks for what cannot
    be done here. Those of gradients are left out, with a note.
    """
    own = {name: value for name, value in options.items() if name in known}
    theirs = {name: value for name, value in options.items() if name not in known}
    if not theirs:
        return own
    translated = _batch(theirs) | _strategies(theirs) | _engine(theirs)
    given = {OTHER_NAMES[name]: theirs.pop(name) for name in [*theirs] if name in OTHER_NAMES}
    if "keep" in given and given["keep"] is None:
        given["keep"] = MOST
    # -1 steps: as many as the epochs have.
    translated |= {name: value for name, value in given.items() if value is not None and value != -1}
    for name in translated.keys() & own.keys():
        raise UserError(f"{name} is given under two names; keep one of them")
    for name, harmless in SAMPLING.items():
        if name in theirs and theirs.pop(name) not in harmless:
            raise UserError(f"{name} is not known here: completions are sampled with temperature alone; leave it out")
    if theirs.pop("model_init_kwargs", None):
        raise UserError("model_init_kwargs is for models that are loaded by name; give the loaded model instead")
    _note_what_is_left(theirs, known)
    return own | translated


def _batch(theirs: dict[str, Any]) -> dict[str, Any]:
    """The prompts of a step, of GRPO's sizes of batches: those that generate together, over all processes."""
    sizes = {name: theirs.pop(name) for name in BATCH if name in theirs}
    group = theirs.get("num_generations") or 8  # TRL's default
    if sizes.get("generation_batch_size"):
        completions = sizes["generation_batch_size"]
    elif sizes.get("per_device_train_batch_size"):
        steps = sizes.get("steps_per_generation") or sizes.get("gradient_accumulation_steps") or 1
        completions = sizes["per_device_train_batch_size"] * steps * int(os.environ.get("WORLD_SIZE", "1"))
    else:
        return {}
    if completions % group:
        raise UserError(
            f"a step of {completions} completions is no whole number of prompts with num_generations {group} each"
        )
    theirs.setdefault("num_generations", group)
    return {"prompts_per_step": completions // group}


def _strategies(theirs: dict[str, Any]) -> dict[str, Any]:
    """When it is evaluated, saved and logged: after so many steps, or never."""
    translated: dict[str, Any] = {}
    for strategy in STRATEGIES:
        if strategy not in theirs:
            continue
        chosen = str(getattr(theirs[strategy], "value", theirs[strategy]))
        del theirs[strategy]
        if chosen not in ("no", "steps"):
            raise UserError(f"{strategy} is {chosen!r}; evolution strategies count steps: give steps, or no")
        if chosen == "no":
            name = strategy.replace("strategy", "steps")
            theirs.pop(name, None)
            translated[OTHER_NAMES.get(name, name)] = 0 if strategy == "eval_strategy" else MOST
    return translated


def _engine(theirs: dict[str, Any]) -> dict[str, Any]:
    translated = {}
    if theirs.pop("use_vllm", False):
        translated["engine"] = "vllm"
    if (half := theirs.pop("bf16", None)) is not None:
        translated["engine_dtype"] = "bfloat16" if half else "float32"
    if theirs.pop("fp16", False):
        raise UserError("fp16 is not known here; give bf16, or leave it out for float32")
    if not theirs.pop("log_completions", True):
        translated["log_completions_every"] = 0
    return translated


def _note_what_is_left(theirs: dict[str, Any], known: set[str]) -> None:
    if not theirs:
        return
    import trl  # here, because it takes seconds, and options under their own names do without

    of_grpo = {*trl.GRPOConfig.__dataclass_fields__}
    for name in theirs:
        if name not in of_grpo:
            raise UserError(f"ESConfig has no option {name}{did_you_mean(name, known | of_grpo)}")
    if theirs.get("load_best_model_at_end"):
        raise UserError("load_best_model_at_end is not known here: the model of a run is its last; leave it out")
    if is_main_process():
        reasons = "".join(f"; {reason}" for name, reason in SAID_BY_OTHERS.items() if name in theirs)
        print(f"note: without effect on evolution strategies: {', '.join(theirs)}{reasons}", file=sys.stderr)
