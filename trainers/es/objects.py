"""What is given to `ESTrainer` as Python objects: data and rewards made a task, and what config.yaml says of them.

A run folder must know whether a second start is the same run. Of objects it keeps names and SHA-256 digests: of rows,
of weights, and of the source text of each function, which does not show what a function calls or closes over.
"""

import hashlib
import inspect
import math
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, fields, replace
from typing import Any, TypeGuard

import datasets
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel

from eval.digests import rows_digest
from eval.errors import UserError
from eval.harness import weights_hash
from eval.tasks import MEMBERS, Task, get_task
from trainers.arguments import MOST
from trainers.es.config import ESConfig


@dataclass(frozen=True)
class Objects:
    """What config.yaml says of the objects of a run, beside its options; None for what was given by name."""

    model_weights: str | None = None
    peft_config: dict[str, Any] | None = None
    reward_funcs: list[str] | None = None
    train_dataset: str | None = None
    eval_dataset: str | None = None

    def of_model(self, weights: str | None, peft_config: PeftConfig | None) -> "Objects":
        """The same with the digest of a loaded model's weights, and with what an adapter's options differ in."""
        if peft_config is None:
            return replace(self, model_weights=weights)
        usual, chosen = type(peft_config)().to_dict(), peft_config.to_dict()
        differs = {key: value for key, value in chosen.items() if value != usual[key] and value is not None}
        text = {key: sorted(value) if isinstance(value, set) else str(value) for key, value in differs.items()}
        return replace(self, model_weights=weights, peft_config=text)

    @property
    def given(self) -> bool:
        return any(getattr(self, one.name) is not None for one in fields(self))


def resolve_model(
    config: ESConfig | None, model: str | PreTrainedModel | PeftModel | None
) -> tuple[ESConfig, PreTrainedModel | PeftModel | None, str | None]:
    """The options with the model's name, the model where it is loaded, and then the digest of its weights."""
    loaded = None if model is None or isinstance(model, str) else model
    name = model if isinstance(model, str) else ""
    if loaded is not None:
        name = getattr(loaded.config, "_name_or_path", "") or type(loaded).__name__
    asked = "" if config is None else config.model
    if asked and name and asked != name:
        raise UserError(f"model is {name!r}, and in the options {asked!r}; give it once")
    name = name or asked
    if not name:
        raise UserError("model is missing; give a checkpoint folder, the name of a hub model, or a loaded model")
    if config is None:
        config = ESConfig(model="", output_dir="")
    config = replace(config, model=name, output_dir=config.output_dir or f"{name.rstrip('/').split('/')[-1]}-ES")
    return config, loaded, None if loaded is None else weights_hash(dict(loaded.named_parameters()))


def is_task(thing: Any) -> TypeGuard[Task]:
    return not isinstance(thing, type) and all(hasattr(thing, member) for member in MEMBERS)


def resolve_task(
    config: ESConfig, reward_funcs: Any, train_dataset: Any, eval_dataset: Any
) -> tuple[ESConfig, Task, Objects]:
    """The task, the options with its name and with sizes that its rows have, and what config.yaml says of it.

    reward_funcs: a `Task`, a task's name or mapping as in a YAML file, a reward function of TRL's signature or a list
    of them, or None for the task of the options. Functions are for rows in `train_dataset`.
    """
    if reward_funcs is None or is_task(reward_funcs) or isinstance(reward_funcs, str | Mapping):
        if train_dataset is not None or eval_dataset is not None:
            raise UserError("a task has data of its own; give reward functions with train_dataset, or the task alone")
        if config.reward_weights is not None:
            raise UserError("reward_weights is for reward functions; a task weighs its own")
        if is_task(reward_funcs):
            objects = Objects() if is_known(reward_funcs) else Objects(reward_funcs=[function_digest(reward_funcs)])
            return named(with_steps(config, reward_funcs, None), reward_funcs), reward_funcs, objects
        config = config if reward_funcs is None else replace(config, task=reward_funcs)
        task = get_task(config.task)
        return with_steps(config, task, None), task, Objects()
    functions = list(reward_funcs) if isinstance(reward_funcs, list | tuple) else [reward_funcs]
    if train_dataset is None:
        raise UserError("reward functions need rows to reward answers to; give train_dataset")
    for name, rows in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset)):
        if isinstance(rows, datasets.IterableDataset | Mapping):
            raise UserError(f"{name} is a {type(rows).__name__}; give a datasets.Dataset, or a list of rows")
    if config.replay:
        raise UserError("replay mixes tasks that have names; leave it out, or write the data as files")
    from eval.tasks.own import task_of_rewards

    train = list(train_dataset)
    evaluation = None if eval_dataset is None else list(eval_dataset)
    name = getattr(functions[0], "__name__", "reward") if len(functions) == 1 else "reward"
    task = task_of_rewards(name, train, evaluation, functions, config.reward_weights)
    config = replace(
        config,
        train_size=len(train),
        prompts_per_step=min(config.prompts_per_step, len(train)),
        eval_size=min(config.eval_size, len(evaluation)) if evaluation else config.eval_size,
        eval_every=config.eval_every if evaluation else 0,
    )
    objects = Objects(
        reward_funcs=[function_digest(function) for function in functions],
        train_dataset=_rows_text(train),
        eval_dataset=None if evaluation is None else _rows_text(evaluation),
    )
    return named(with_steps(config, task, len(train)), task), task, objects


def named(config: ESConfig, task: Task) -> ESConfig:
    """The options with the name of a task that an object stands for, and that __init__ would look up."""
    config = copy(config)
    config.task = task.name
    return config


def is_known(task: Task) -> bool:
    """Whether its name alone says which task it is."""
    try:
        return get_task(task.name) == task
    except UserError:
        return False


def with_steps(config: ESConfig, task: Task, rows: int | None) -> ESConfig:
    """`num_train_epochs` as steps. rows: training problems, where they are counted already."""
    if not config.num_train_epochs:
        return config
    if rows is None:
        rows = len(task.load("train", config.train_size, config.data_seed))
    steps = math.ceil(config.num_train_epochs * (rows // config.prompts_per_step))
    return replace(config, steps=min(max(1, steps), MOST), num_train_epochs=0.0)


def function_digest(function: Any) -> str:
    """Its name and the SHA-256 of its source text; the name alone where there is none."""
    named = getattr(function, "__name__", None) or getattr(function, "name", None) or type(function).__name__
    try:
        source = inspect.getsource(function if inspect.isroutine(function) else type(function))
    except (OSError, TypeError):
        return str(named)
    return f"{named} {hashlib.sha256(inspect.cleandoc(source).encode()).hexdigest()[:16]}"


def _rows_text(rows: list[dict[str, Any]]) -> str:
    return f"{len(rows)} rows {rows_digest(rows)[:16]}"
