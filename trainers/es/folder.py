"""A run folder of evolution strategies: where a start goes on from, and how a complete run is given more steps."""

import shutil
from pathlib import Path
from typing import Any

from eval.digests import data_digests, rows_digest, run_digests
from eval.errors import UserError
from eval.ownership import remove_made
from eval.storage import read_json, read_yaml_mapping, truncate_jsonl, write_json
from eval.tasks import Task
from trainers.ending import ended_by
from trainers.es.adapter import WEIGHTS
from trainers.es.config import ESConfig
from trainers.es.objects import Objects
from trainers.es.rollout import TrainingRows
from trainers.es.search import EvolutionStrategy
from trainers.es.vector_search import VectorSearch
from trainers.hub import HUB_OPTIONS
from trainers.run_folder import checkpoint_folder, complete_steps, last_complete_step, save_checkpoint


LOGS = ("metrics.jsonl", "evaluations.jsonl", EvolutionStrategy.log, VectorSearch.log)
PROGRESS = ("completions", "tokens", "seconds")
# What may differ between two starts of a run: what is told and kept of it, not what is computed.
MAY_CHANGE = ("report_to", "run_name", "logging_steps", *HUB_OPTIONS)
# What says how long a run goes on, and what counts it.
LENGTHS = {"steps": "steps", "stop_at_tokens": "tokens", "stop_at_seconds": "seconds"}
SCHEDULES = ("sigma_schedule", "alpha_schedule")


def may_grow(folder: Path, config: ESConfig) -> dict[str, float]:
    """The options in `LENGTHS`, each with how far the run in `folder` has come; none where there is no run.

    Raises `UserError` for other `steps` where a schedule goes by them: the steps that are done would have been others.
    """
    if not (folder / "config.yaml").exists():
        return {}
    before = read_yaml_mapping(folder / "config.yaml").get("steps")
    if before != config.steps:
        for name in SCHEDULES:
            if (schedule := getattr(config, name)) != "constant":
                raise UserError(
                    f"steps was {before}, now {config.steps}, but {name} {schedule} depends on steps: the steps that "
                    "are done would have been others; give the old steps, or choose another output_dir"
                )
    reached: dict[str, Any] = {}
    if (folder / "results.json").exists():
        reached = read_json(folder / "results.json")
    elif step := last_complete_step(folder):
        reached = {"steps": step} | read_json(checkpoint_folder(folder, step) / "progress.json")
    return {option: reached.get(counted, 0) for option, counted in LENGTHS.items()}


def is_complete(results: dict[str, Any], config: ESConfig) -> bool:
    """Whether a run with these results is at the end that the options ask for."""
    if results["ended_by"] == "callback":
        return config.steps == results["steps_asked"]
    return ended_by(results["steps"], config.steps, results, config.stop_at_tokens, config.stop_at_seconds) is not None


def reopen(folder: Path, results: dict[str, Any], config: ESConfig) -> None:
    """Make the end of a complete run a checkpoint that it goes on from. A kill in between leaves either of them.

    The evaluation at its end goes: an undisturbed run makes none there, or makes it again.
    """
    step = results["steps"]

    def save(checkpoint: Path) -> None:
        adapter = folder / "adapter" / WEIGHTS
        source = adapter.parent if adapter.exists() else folder / "model"
        for file in source.iterdir():
            if file.is_file() and not file.name.startswith("."):
                shutil.copy2(file, checkpoint / file.name)
        write_json(checkpoint / "progress.json", {name: results[name] for name in PROGRESS})

    save_checkpoint(folder, step, save)
    truncate_jsonl(folder / "evaluations.jsonl", step - 1)
    (folder / "results.json").unlink()
    for name in ("model", "adapter"):
        if (folder / name).exists():
            remove_made(folder / name)
    print(f"{folder}: complete after {step} steps; it goes on to {config.steps}", flush=True)


def checkpoint_to_start_from(folder: Path, resume_from_checkpoint: str | Path | bool | None) -> int:
    """The step of the checkpoint that a start goes on from; 0 for the starting model.

    resume_from_checkpoint: as `ESTrainer.train` has it. Checkpoints after a chosen one are removed: their steps are
    made again. Raises `UserError` if there is none, or the path is none of this run.
    """
    newest = last_complete_step(folder) or 0
    if isinstance(resume_from_checkpoint, bool | None):
        if resume_from_checkpoint and not newest:
            raise UserError(f"resume_from_checkpoint: {folder} holds no complete checkpoint; leave it out to begin")
        return newest
    steps = {checkpoint_folder(folder, step).resolve(): step for step in complete_steps(folder)}
    step = steps.get(Path(resume_from_checkpoint).resolve())
    if step is None:
        raise UserError(
            f"resume_from_checkpoint: {resume_from_checkpoint} is no complete checkpoint of the run in {folder}; its "
            f"own are {', '.join(f'step_{known}' for known in sorted(steps.values())) or 'none yet'}"
        )
    for later in complete_steps(folder):
        if later > step:
            remove_made(checkpoint_folder(folder, later))
    return step


def truncate_logs(folder: Path, done: int) -> None:
    """Drop what the logs have of the steps after `done`."""
    for log in LOGS:
        truncate_jsonl(folder / log, done)


def run_digests_of(folder: Path, config: ESConfig, task: Task, rows: TrainingRows, objects: Objects) -> dict[str, Any]:
    """The `digests` of results.json (see `eval.digests`)."""
    data = {f"{rows.task.name}, {len(rows.rows)} rows of train": rows_digest(rows.rows)}
    if config.eval_every:
        if objects.reward_funcs is None:
            data |= data_digests([(config.task, config.eval_size)], "validation", config.data_seed)
        else:
            evaluated = task.load("validation", config.eval_size, config.data_seed)
            data[f"{task.name}, {len(evaluated)} rows of validation"] = rows_digest(evaluated)
    models = {"model": folder / "model"}
    digests = run_digests(folder, models if objects.model_weights else {"start": config.model} | models, data)
    return digests
