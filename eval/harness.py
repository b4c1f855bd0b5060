"""Evaluating a model on a task: rows in, accuracy with its interval and pass@k out."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from math import comb
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch
from tqdm import tqdm

from eval.adapters import evaluation_rows
from eval.completions import EXACT, accuracy_of
from eval.errors import UserError
from eval.intervals import mean_interval, wilson_interval
from eval.rollout.base import RolloutEngine, Sampling
from eval.storage import read_json, write_json
from eval.tasks import Task


def evaluate_task(
    engine: RolloutEngine,
    task: Task,
    split: str,
    size: int,
    seed: int,
    sampling: Sampling,
    batch_size: int,
    cache: Path | None = None,
    checkpoint: str | None = None,
) -> dict[str, Any]:
    """Let `engine`'s pristine model answer `size` rows of `split`, `batch_size` prompts at a time.

    Returns

        correct     completions with value 1.0
        total       completions that could be scored
        unscorable  completions that could not; they count in nothing but `mean_tokens` and `unfinished`
        accuracy    mean over the rows of the mean of `accuracy_of` of their scored completions, None without any
        low, high   95 % interval of the accuracy over the choice of rows, see `accuracy_interval`
        mean_tokens generated tokens per completion, the end token included
        unfinished  completions cut at `max_new_tokens`
        reward      only for a graded task, whose accuracy is not it: the mean value
        records     per completion {index, prompt, completion, value, parsed, parts, tokens, finished}, in order; with
                    several samples also `sample`, of a graded task also `exact`
        pass_at     only with several samples: see `pass_at`
        spread      only with several samples: share of the rows whose scored completions differ in value; the others
                    give a method that compares them nothing to learn from. None without any

    Greedy decoding is `Sampling(temperature=0)`. Completions do not depend on `batch_size`: the engine addresses its
    sampling noise by prompt and sample. What can differ is rounding in a batched product, where two tokens tie.

    cache: a folder; the result is read from it if it is there, and written to it if not. Its name is a hash of
        `checkpoint`, task and system prompt, split, size, seed and sampling, and of nothing else: not of the rows
        themselves, so delete the folder when a local data file has changed.
    checkpoint: what the weights are, `weights_hash(engine.named_weights())` unless given.

    Raises UserError for a batch_size below 1 or a split without rows, and ValueError for several greedy samples, which
    would all be the same.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; give at least 1")
    if sampling.samples > 1 and sampling.temperature == 0:
        raise ValueError(f"{sampling.samples} greedy samples of a prompt are all the same; give a temperature")
    file = None
    if cache is not None:
        file = cache / f"{_cache_name(engine, checkpoint, task, split, size, seed, sampling)}.json"
        if file.exists():
            return read_json(file)
    rows = task.load(split, size, seed).to_list()
    if not rows:
        raise UserError(f"task {task.name} has no rows in its {split} split; choose another split")
    records = _answers(engine, task, rows, sampling, batch_size)
    result = {**summary(records), "records": records}
    if sampling.samples > 1:
        result["pass_at"] = pass_at(records)
        result["spread"] = spread(records)
    if file is not None:
        write_json(file, result)
    return result


def summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    """What `evaluate_task` returns about its records."""
    scored = [record for record in records if record["value"] is not None]
    by_row = [fmean(cast(float, accuracy_of(record)) for record in row) for row in _by_row(scored)]
    low, high = accuracy_interval(by_row)
    is_graded = any(EXACT in record for record in scored)
    return {
        "correct": sum(record["value"] == 1.0 for record in scored),
        "total": len(scored),
        "unscorable": len(records) - len(scored),
        "accuracy": fmean(by_row) if by_row else None,
        "low": low,
        "high": high,
        "mean_tokens": fmean(record["tokens"] for record in records),
        "unfinished": sum(not record["finished"] for record in records),
        **({"reward": fmean(record["value"] for record in scored)} if is_graded else {}),
    }


def pass_at(records: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """For k = 1, 2, 4, ... up to the fewest scored samples of a row: mean pass@k and its 95 % interval over the rows.

    A completion passes with value 1.0; rows without a scored completion are left out.
    """
    scored = [record for record in records if record["value"] is not None]
    rows = [[record["value"] for record in row] for row in _by_row(scored)]
    estimates = {}
    k = 1
    while rows and k <= min(map(len, rows)):
        values = [pass_at_k(row.count(1.0), len(row), k) for row in rows]
        low, high = accuracy_interval(values)
        estimates[str(k)] = {"value": fmean(values), "low": low, "high": high}
        k *= 2
    return estimates


def spread(records: list[dict[str, Any]]) -> float | None:
    """The share of rows with a scored completion whose scored completions are not all of one value."""
    rows = _by_row([record for record in records if record["value"] is not None])
    return fmean(len({record["value"] for record in row}) > 1 for row in rows) if rows else None


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """The chance that at least one of k samples drawn without replacement is right, `correct` of `samples` being so.

    1 - C(samples - correct, k) / C(samples, k), the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374), eq. 1.
    Raises ValueError unless 1 <= k <= samples and 0 <= correct <= samples.
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(f"pass@{k} of {correct} correct among {samples} samples is not defined")
    return 1 - comb(samples - correct, k) / comb(samples, k)


def weights_hash(weights: Mapping[str, torch.Tensor]) -> str:
    """A hash of parameter names, types, shapes and bits, the same on every device."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        weight = weights[name].detach().cpu().contiguous()
        digest.update(repr((name, str(weight.dtype), tuple(weight.shape))).encode())
        digest.update(weight.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def accuracy_interval(values: list[float]) -> tuple[float | None, float | None]:
    """The 95 % interval of the mean of scores.

    Wilson's when every score is 0 or 1; the normal approximation when a task gives partial credit, cut to [0, 1] where
    all scores lie there (rewards of one's own may be any number).
    (None, None) without values, and for a single partial credit, whose spread nobody knows.
    """
    if values and set(values) <= {0.0, 1.0}:
        return wilson_interval(values.count(1.0), len(values))
    if len(values) < 2:
        return None, None
    low, high = mean_interval(values)
    if min(values) < 0 or max(values) > 1:
        return low, high
    return max(0.0, low), min(1.0, high)


def _answers(
    engine: RolloutEngine, task: Task, rows: list[dict[str, Any]], sampling: Sampling, batch_size: int
) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    with tqdm(total=len(rows), desc=f"evaluate {task.name}", unit="row") as progress:
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            [answers] = engine.generate([row["prompt"] for row in batch], sampling)
            answered = [(row, one) for row, completions in zip(batch, answers, strict=True) for one in completions]
            scores = iter(
                evaluation_rows(
                    task,
                    [completion.text for _, completion in answered],
                    [row for row, _ in answered],
                    [completion.token_ids for _, completion in answered],
                )
            )
            for index, (row, completions) in enumerate(zip(batch, answers, strict=True), start=start):
                for sample, completion in enumerate(completions):
                    records.append(
                        {
                            "index": index,
                            **({"sample": sample} if sampling.samples > 1 else {}),
                            "prompt": row["prompt"],
                            "completion": completion.text,
                            **next(scores),
                            "tokens": len(completion.token_ids),
                            "finished": completion.finished,
                        }
                    )
            progress.update(len(batch))
    return records


def _by_row(records: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    rows: dict[int, list[dict[str, Any]]] = {}
    for record in records:
        rows.setdefault(record["index"], []).append(record)
    return list(rows.values())


def _cache_name(
    engine: RolloutEngine, checkpoint: str | None, task: Task, split: str, size: int, seed: int, sampling: Sampling
) -> str:
    checkpoint = weights_hash(engine.named_weights()) if checkpoint is None else checkpoint
    # A task is a frozen dataclass of plain values, so its repr names its options too.
    key = repr(
        (checkpoint, repr(task), task.name, task.system_prompt, split, size, seed, sorted(asdict(sampling).items()))
    )
    return f"{task.name.replace('/', '-')}-{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}"
