"""What `--dry-run` says: the model, the data, the length and the folder of a run, each looked at and none touched.

Whatever would refuse the run before its first step refuses it here: options, a missing model or task, bad rows, a
folder that holds another run. Each function returns the words for one line.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.circuit_tasks import CIRCUIT_TASKS
from eval.tasks import get_task
from trainers.earlier_tasks import replay_names
from trainers.es.config import ESConfig
from trainers.es.engine import check_memory, longest_prompt_of, resolve_engine_dtype
from trainers.es.folder import MAY_CHANGE as ES_MAY_CHANGE
from trainers.es.folder import may_grow
from trainers.es.memory import model_shape, size_text
from trainers.evaluated import evaluations_of, saved_bytes
from trainers.grpo import GRPOArguments, GRPOConfig, check_grpo_run, check_more_steps
from trainers.grpo_memory import grpo_demand, plan_grpo_memory
from trainers.launch import is_main_process, make_accelerator
from trainers.pretrain import MAY_CHANGE as PRETRAIN_MAY_CHANGE
from trainers.pretrain import PretrainConfig
from trainers.rules import MAY_CHANGE as RULES_MAY_CHANGE
from trainers.rules import RulesConfig
from trainers.run_folder import check_start, last_complete_step
from trainers.sft import SFTArguments, SFTConfig, answers_per_step, more_passes
from trainers.trl_run import MAY_CHANGE as TRL_MAY_CHANGE
from trainers.trl_run import TRLArguments, check_run, seed_of_problems


def announce(method: str, lines: dict[str, str]) -> None:
    """Print the lines, on the main process."""
    if is_main_process():
        print(f"dry run of {method}: nothing is trained, nothing is written")
        for name, words in lines.items():
            print(f"  {name:12} {words}", flush=True)


def model_line(path: str) -> str:
    """Raises `UserError` for a model that is not there, or whose config.json describes none."""
    return f"{path}: {model_shape(path).parameters:,} parameters"


def data_line(task: Any, sizes: dict[str, int], seed: int) -> str:
    """The rows of each split, loaded. sizes: {split: rows asked for}. Raises `UserError` as the task does."""
    opened = get_task(task)
    loaded = {split: len(opened.load(split, size, seed)) for split, size in sizes.items() if size}
    return f"{opened.name}: {', '.join(f'{rows:,} rows of {split}' for split, rows in loaded.items())}"


def held_out_line(tasks: Iterable[Any], size: int, seed: int) -> str:
    """The rows on which finished models are judged, loaded."""
    return "; ".join(data_line(task, {"test": size}, seed) for task in tasks)


def folder_line(
    folder: str | Path, *configs: Any, may_change: Collection[str] = (), may_grow: Mapping[str, float] | None = None
) -> str:
    """Whether a run there is new, goes on or is finished. Raises `UserError` if it could not start there."""
    check_start(Path(folder), *configs, may_change=may_change, may_grow=may_grow)
    return f"{folder}: {state_of(Path(folder))}"


def state_of(folder: Path) -> str:
    """Of a run folder, in words."""
    if (folder / "results.json").exists():
        return "finished"
    if not (folder / "config.yaml").exists():
        return "new"
    steps = [int(path.parent.name.partition("-")[2]) for path in folder.glob("checkpoint-*/complete.json")]
    reached = last_complete_step(folder) or max(steps, default=0)
    return f"begun, would go on after step {reached}" if reached else "begun, without a checkpoint of its own"


def finished_line(folders: Iterable[Path], what: str) -> str:
    """`6 trainings, 2 of them finished`."""
    finished = [(folder / "results.json").exists() for folder in folders]
    return f"{len(finished)} {what}, {sum(finished)} of them finished"


def training_lines(method: str, *configs: Any) -> dict[str, str]:
    """The lines of one training, with its configs as the trainer takes them."""
    lines = LINES[method](*configs)
    folder, growing = Path(configs[-1].output_dir), {}
    if method == "es":
        # The last two say for what the plan is made.
        may_change, growing = (*ES_MAY_CHANGE, "dry_run", "memory_gb"), may_grow(folder, *configs)
    elif method == "grpo":
        may_change = (*TRL_MAY_CHANGE, *check_more_steps(get_task(configs[0].task), *configs))
    elif method == "sft":
        may_change = (*TRL_MAY_CHANGE, *more_passes(configs[-1]))
    else:
        may_change = {"pretrain": PRETRAIN_MAY_CHANGE, "rules": RULES_MAY_CHANGE}[method]
    return lines | {"folder": folder_line(folder, *configs, may_change=may_change, may_grow=growing)}


def print_memory_plan(config: ESConfig) -> None:
    """What every process of a run of evolution strategies takes. Raises `UserError` if it does not fit."""
    config, accelerator = replace(config, dry_run=True), make_accelerator()
    resolve_engine_dtype(config, accelerator)
    check_memory(config, accelerator)


def es_lines(config: ESConfig) -> dict[str, str]:
    completions = config.completions_per_step * config.steps
    evaluated = config.eval_size if config.eval_every else 0
    return {
        "model": model_line(config.model),
        "data": data_line(config.task, {"train": config.train_size, "validation": evaluated}, config.data_seed),
        "length": f"{config.steps:,} steps of {config.population:,} members, {completions:,} completions"
        + limits(config.stop_at_tokens, config.stop_at_seconds),
    }


def grpo_lines(arguments: GRPOArguments, config: GRPOConfig) -> dict[str, str]:
    check_grpo_run(arguments, config)
    completions = int(config.completions_per_step * config.max_steps)
    problems = arguments.train_size or -(-completions // (config.num_generations or 1))
    return {
        "model": model_line(arguments.model),
        "data": _data_of_trl(arguments, config, problems),
        "length": f"{config.max_steps:,} optimiser steps, {completions:,} completions"
        + limits(arguments.stop_at_tokens, arguments.stop_at_seconds),
        **kept_line(arguments, config.max_steps, arguments.lora_rank),
        "memory": grpo_memory_line(arguments, config, problems),
    }


def grpo_memory_line(arguments: GRPOArguments, config: GRPOConfig, problems: int) -> str:
    """What a process takes at its peak, the largest part first."""
    tasks = [get_task(arguments.task), *map(get_task, replay_names(arguments.replay))]
    prompt_tokens = longest_prompt_of(arguments.model, tasks, problems, seed_of_problems(config))
    demand = grpo_demand(arguments, config, prompt_tokens)
    plan = plan_grpo_memory(model_shape(arguments.model), demand)
    parts = sorted(plan.device.items(), key=lambda part: -part[1])
    named = ", ".join(f"{name} {size_text(size)}" for name, size in parts if size)
    beside = "; vLLM comes on top" if config.use_vllm else ""
    return f"{size_text(plan.device_bytes)} on each process, without shards: {named}{beside}"


def sft_lines(arguments: SFTArguments, config: SFTConfig) -> dict[str, str]:
    check_run(arguments, config)
    completions = arguments.problems * arguments.samples
    return {
        "model": model_line(arguments.model),
        "data": _data_of_trl(arguments, config, arguments.problems),
        "length": f"{completions:,} completions, then {config.num_train_epochs:g} passes over the right ones"
        + limits(arguments.stop_at_tokens, arguments.stop_at_seconds),
        **kept_line(arguments, -(-completions * int(config.num_train_epochs) // answers_per_step(config))),
    }


def kept_line(arguments: TRLArguments, steps: int, lora_rank: int = 0) -> dict[str, str]:
    """The bytes of the weights that are kept at evaluations, at most; none where none are."""
    if not arguments.keep_evaluated:
        return {}
    weights = model_shape(arguments.model).parameters
    folders = evaluations_of(steps, arguments.eval_every)
    each = saved_bytes(weights, arguments.evaluated_dtype)
    size = f"{each:,} bytes each, {folders * each:,} in all"
    return {"evaluated": f"weights of {folders:,} evaluations: {'an adapter each' if lora_rank else size}"}


def _data_of_trl(arguments: Any, config: Any, problems: int) -> str:
    evaluated = arguments.eval_size if arguments.eval_every else 0
    return data_line(arguments.task, {"train": problems, "validation": evaluated}, seed_of_problems(config))


def pretrain_lines(config: PretrainConfig) -> dict[str, str]:
    tasks = [name for name in config.tasks if name not in CIRCUIT_TASKS]
    validation = "; ".join(data_line(name, {"validation": config.evaluate_size}, 0) for name in tasks)
    return {
        "model": f"{config.architecture}, {config.layers} layers of width {config.hidden_size}, from nothing",
        "data": validation or ", ".join(config.tasks),
        "length": f"{config.steps:,} steps of {config.batch_size:,} conversations",
    }


def rules_lines(config: RulesConfig) -> dict[str, str]:
    rule = config.make_rule()
    split = rule.split(config.train_size, config.held_out_size, config.data_seed)
    return {
        "model": f"{config.model}, depth {config.depth}, width {config.width}, from nothing",
        "data": f"{rule.describe()}: {len(split.train):,} training strings, as many of control, "
        f"{len(split.held_out):,} held out, of {rule.count:,} valid ones",
        "length": f"{config.steps:,} steps of {config.batch_size:,} strings at most; stop: {config.stop}",
    }


def limits(tokens: int, seconds: float) -> str:
    """`, or at 5,000 tokens`: what may end a run before its last step."""
    reached = [f"{tokens:,} tokens"] * bool(tokens) + [f"{seconds:g} seconds"] * bool(seconds)
    return f", or at {' or '.join(reached)}" if reached else ""


LINES = {"es": es_lines, "grpo": grpo_lines, "sft": sft_lines, "pretrain": pretrain_lines, "rules": rules_lines}
