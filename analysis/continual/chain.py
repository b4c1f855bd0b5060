"""A finished chain of trainings, one task after the other: every model on every task, and what each training did."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.behaviour.held_out import HeldOut
from analysis.behaviour.kl import kl_drift
from analysis.geometry.updates import update_geometry
from analysis.resume import stage
from eval.completions import accuracy_of, file_name, write_completions
from eval.digests import file_digest
from eval.harness import evaluate_task
from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine
from eval.storage import new_folder, read_json
from eval.tasks import get_task, task_name


# What a training's results.json says of its cost.
SPENT = ("steps", "completions", "tokens", "seconds", "ended_by")


def measure_chain(
    chain: Path,
    base: Path,
    base_evaluation: Path,
    trainings: Sequence[Path],
    tasks: Sequence[str],
    columns: Sequence[str],
    held_out: HeldOut,
    device: Any,
) -> dict[str, Any]:
    """{"scores": {column: a row of values for each model, base first}, "stages": [one entry for each training]}.

    Measured once, and kept in `chain`/chain.json. trainings: the run folders in order, of `tasks`. columns: the tasks
    that all models answer. base_evaluation: folder with what is known of the base's answers. What the last model wrote
    goes to `chain`/completions/.
    """
    inputs = {
        # A run that is finished does not change, and its results.json holds its time.
        "trainings": [file_digest(folder / "results.json") for folder in trainings],
        "columns": list(columns),
        "test_size": held_out.test_size,
        "kl_prompts": held_out.kl_prompts,
        "data_seed": held_out.data_seed,
        "max_new_tokens": held_out.max_new_tokens,
    }

    def measure() -> dict[str, Any]:
        models = [base, *(folder / "model" for folder in trainings)]
        rows = [evaluate(base, columns, base_evaluation, held_out, device)]
        rows += [evaluate(model, columns, chain / "evaluation", held_out, device) for model in models[1:-1]]
        with new_folder(chain / "completions") as folder:
            rows.append(evaluate(models[-1], columns, chain / "evaluation", held_out, device, folder))
        stages = [
            {
                "task": task,
                **{key: read_json(folder / "results.json")[key] for key in SPENT},
                "update_norm": distance(before, after),
                "drift_norm": distance(base, after),
                "kl": divergence(base, "base", after, task, held_out, device),
                "kl_step": divergence(before, "the model before", after, task, held_out, device),
            }
            for task, folder, before, after in zip(tasks, trainings, models[:-1], models[1:], strict=True)
        ]
        return {"scores": {column: [row[column] for row in rows] for column in columns}, "stages": stages}

    return stage(chain, "chain", inputs, measure)


def evaluate(
    model: Path,
    columns: Sequence[str],
    cache: Path,
    held_out: HeldOut,
    device: Any,
    completions: Path | None = None,
) -> dict[str, list[float | None]]:
    """What the model's greedy answer to each held-out problem counts for in its accuracy, by task.

    completions: a folder that takes what it wrote, one file for each task.
    """
    engine = HFEngine.from_pretrained(model, device)
    rows, sampling = (held_out.test_size, held_out.data_seed), Sampling(held_out.max_new_tokens)
    values: dict[str, list[float | None]] = {}
    for column in columns:
        task = get_task(column)
        records = evaluate_task(engine, task, "test", *rows, sampling, held_out.batch_size, cache)["records"]
        values[column] = [accuracy_of(record) for record in records]
        if completions is not None:
            file = completions / f"{file_name(task_name(column))}.parquet"
            write_completions(file, task.name, records, task.load("test", *rows).to_list())
    return values


def distance(one: Path, other: Path) -> float:
    """Length of the difference of two models' weights."""
    return update_geometry(one, {"other": other})["checkpoints"]["other"]["norm"]


def divergence(
    reference: Path, called: str, model: Path, task: str, held_out: HeldOut, device: Any
) -> dict[str, dict[str, Any]]:
    """KL between two models on the task's held-out prompts in nats per token: forward is KL(reference || model).

    called: what the reference is, in words.
    """
    generation = (held_out.data_seed, held_out.max_new_tokens, held_out.batch_size, device)
    drift = kl_drift(reference, {"model": model}, [task], held_out.kl_prompts, *generation)["model"][task]
    return {
        direction: {
            "value": kl["per_token"],
            "low": kl["per_token_low"],
            "high": kl["per_token_high"],
            "direction": kl["direction"].replace("base", called),
            "sampled_from": kl["sampled_from"].replace("base", called),
            **{key: kl[key] for key in ("estimator", "temperature", "max_new_tokens", "prompts", "sequences")},
        }
        for direction, kl in drift.items()
    }
