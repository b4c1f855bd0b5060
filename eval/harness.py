"""Evaluating a model on a task: rows in, accuracy with its interval out."""

from statistics import fmean
from typing import Any

from tqdm import tqdm

from eval.adapters import evaluation_row
from eval.errors import UserError
from eval.intervals import mean_interval, wilson_interval
from eval.rollout.base import RolloutEngine, Sampling
from eval.tasks import Task


def evaluate_task(
    engine: RolloutEngine, task: Task, split: str, size: int, seed: int, sampling: Sampling, batch_size: int
) -> dict[str, Any]:
    """Let `engine`'s pristine model answer `size` rows of `split` once each, `batch_size` prompts at a time.

    Returns

        correct     rows with value 1.0
        total       rows that could be scored
        unscorable  rows that could not; they count in nothing but `mean_tokens` and `unfinished`
        accuracy    mean value of the scored rows, None without any
        low, high   95 % interval of the accuracy, see `accuracy_interval`
        mean_tokens generated tokens per completion, the end token included
        unfinished  completions cut at `max_new_tokens`
        records     per row {index, prompt, completion, value, parsed, parts, tokens, finished}, in order

    Greedy decoding is `Sampling(temperature=0)`. Raises UserError for a batch_size below 1 or a split without rows,
    ValueError for more than one sample per prompt: the interval takes the completions as independent.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; give at least 1")
    if sampling.samples != 1:
        raise ValueError(f"evaluation takes one sample per prompt, not {sampling.samples}")
    rows = task.load(split, size, seed).to_list()
    if not rows:
        raise UserError(f"task {task.name} has no rows in its {split} split; choose another split")
    records: list[dict[str, Any]] = []
    with tqdm(total=len(rows), desc=f"evaluate {task.name}", unit="row") as progress:
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            [answers] = engine.generate([row["prompt"] for row in batch], sampling)
            for row, [completion] in zip(batch, answers, strict=True):
                records.append(
                    {
                        "index": len(records),
                        "prompt": row["prompt"],
                        "completion": completion.text,
                        **evaluation_row(task, completion.text, row),
                        "tokens": len(completion.token_ids),
                        "finished": completion.finished,
                    }
                )
            progress.update(len(batch))
    values = [record["value"] for record in records if record["value"] is not None]
    low, high = accuracy_interval(values)
    return {
        "correct": values.count(1.0),
        "total": len(values),
        "unscorable": len(records) - len(values),
        "accuracy": fmean(values) if values else None,
        "low": low,
        "high": high,
        "mean_tokens": fmean(record["tokens"] for record in records),
        "unfinished": sum(not record["finished"] for record in records),
        "records": records,
    }


def accuracy_interval(values: list[float]) -> tuple[float | None, float | None]:
    """The 95 % interval of the mean of scores in [0, 1].

    Wilson's when every score is 0 or 1; the normal approximation, cut to [0, 1], when a task gives partial credit.
    (None, None) without values, and for a single partial credit, whose spread nobody knows.
    """
    if values and set(values) <= {0.0, 1.0}:
        return wilson_interval(values.count(1.0), len(values))
    if len(values) < 2:
        return None, None
    low, high = mean_interval(values)
    return max(0.0, low), min(1.0, high)
