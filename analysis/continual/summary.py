"""What trainings one after the other did to a model: the summary of a sequential run, from its per-item scores.

The run holds, for each arm (a method with its options) and each seed, one chain: a model trained on T tasks in order,
scored on C columns (the T tasks, then tasks that are only evaluated) before the first task and after each. All chains
answered the same items. Everything here is a pure function of that record.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from analysis.continual.drift import Row, drift_and_forgetting, interval_of_numbers, stage_points
from analysis.continual.metrics import (
    METRICS,
    accuracy_matrices,
    continual_metrics,
    forgetting_by_task,
    matrix_estimate,
    metric_estimates,
    metrics_of,
    paired_difference,
    resampled_matrices,
)
from analysis.statistics import mcnemar, resample_counts


SPENT = ("steps", "completions", "tokens", "seconds")


@dataclass(frozen=True, eq=False)
class Chains:
    """The complete chains of one arm.

    stages: of each seed. scores: {column: [seeds, T + 1, items]}, NaN for an answer that could not be scored.
    """

    method: str
    stages: dict[str, list[Row]]
    scores: dict[str, np.ndarray]

    @cached_property
    def matrices(self) -> np.ndarray:
        """[seeds, T + 1, C]"""
        return accuracy_matrices(list(self.scores.values()))


def summarise(results: Mapping[str, Any], resamples: int = 2000, confidence: float = 0.95, seed: int = 0) -> Row:
    """The summary of a sequential run, ready for JSON. An interval is {value, low, high}, in shares of 1.

    results: `tasks`, `columns` and `arms` of results.json of recipes/sequential.py.

    seeds       {arm: {seed: {metric: value or null}}} of the complete chains
    left_out    {"arm/seed": why a chain counts in nothing}
    main        the first arm of each method; the others are its controls
    matrix      {arm: {value, low, high}}, each [T + 1][C]: mean accuracy over seeds
    metrics     {arm: {metric: interval or null}}, see `analysis.continual.metrics.continual_metrics`
    forgetting  {arm: {task: interval}} of the first T - 1 tasks, see `analysis.continual.metrics.forgetting_by_task`
    pairs       {"a|b": {metrics: {metric: interval or null}, final: {column: interval and `mcnemar`}}}: b minus a on
                the same items, for every two main arms, and for each control (b) against the main arm of its method
                (a). mcnemar: the exact test of `analysis.statistics.mcnemar` where both have one seed, else null
    drift       how the loss on the other tasks goes with the drift of a stage, see `drift_and_forgetting`
    budget      {arm: {tasks: {task: {steps, completions, tokens, seconds}}, total: the same}}, means over seeds

    Intervals are bootstraps over seeds and items, see `analysis.continual.metrics`; for the differences of metrics the
    items are drawn once for both arms, the seeds of each on their own. Raises ValueError if chains were scored on
    different numbers of items.
    """
    tasks, columns = list(results["tasks"]), list(results["columns"])
    chains, left_out = complete_chains(results["arms"], tasks, columns)
    _check_items(chains, columns)
    options = {"resamples": resamples, "confidence": confidence, "seed": seed}
    drawn = _bootstrap(chains, resamples, seed)
    methods = {arm: of_arm.method for arm, of_arm in chains.items()}
    points = [
        point
        for arm, of_arm in chains.items()
        for (chain, stages), matrix in zip(of_arm.stages.items(), of_arm.matrices, strict=True)
        for point in stage_points(arm, of_arm.method, chain, stages, matrix)
    ]
    return {
        "seeds": {
            arm: dict(zip(of_arm.stages, map(continual_metrics, of_arm.matrices), strict=True))
            for arm, of_arm in chains.items()
        },
        "left_out": left_out,
        "main": main_arms(methods),
        "matrix": {arm: matrix_estimate(list(of_arm.scores.values()), **options) for arm, of_arm in chains.items()},
        "metrics": {
            arm: {
                name: None if estimate is None else asdict(estimate)
                for name, estimate in metric_estimates(list(of_arm.scores.values()), **options).items()
            }
            for arm, of_arm in chains.items()
        },
        "forgetting": {
            arm: _forgetting(of_arm.matrices, drawn[arm]["by_task"], tasks, confidence)
            for arm, of_arm in chains.items()
        },
        "pairs": {
            f"{one}|{other}": {
                "metrics": _metric_differences(
                    [chains[arm].matrices for arm in (one, other)],
                    [drawn[arm]["metrics"] for arm in (one, other)],
                    confidence,
                ),
                "final": {
                    column: _final_difference(*(chains[arm].scores[column][:, -1] for arm in (one, other)), options)
                    for column in columns
                },
            }
            for one, other in arm_pairs(methods)
        },
        "drift": drift_and_forgetting(points, **options),
        "budget": {arm: budget(list(of_arm.stages.values()), tasks) for arm, of_arm in chains.items()},
    }


def complete_chains(
    arms: Mapping[str, Row], tasks: Sequence[str], columns: Sequence[str]
) -> tuple[dict[str, Chains], dict[str, str]]:
    """The chains that every number is made of, without the arms that have none; and {"arm/seed": why not this one}."""
    complete, left_out = {}, {}
    for arm, entry in arms.items():
        reasons = {seed: _what_is_wrong(chain, tasks, columns) for seed, chain in entry["seeds"].items()}
        left_out |= {f"{arm}/{seed}": reason for seed, reason in reasons.items() if reason is not None}
        kept = {seed: chain for seed, chain in entry["seeds"].items() if reasons[seed] is None}
        if kept:
            complete[arm] = Chains(
                entry["method"],
                {seed: chain["stages"] for seed, chain in kept.items()},
                {
                    column: np.array([chain["scores"][column] for chain in kept.values()], dtype=float)
                    for column in columns
                },
            )
    return complete, left_out


def main_arms(methods: Mapping[str, str]) -> list[str]:
    """The first arm of each method; methods: {arm: method}."""
    first: dict[str, str] = {}
    for arm, method in methods.items():
        first.setdefault(method, arm)
    return list(first.values())


def arm_pairs(methods: Mapping[str, str]) -> list[tuple[str, str]]:
    """Every two main arms, then the main arm of each method with each of its controls."""
    main = main_arms(methods)
    controls = [
        (one, other) for one in main for other, method in methods.items() if other != one and method == methods[one]
    ]
    return [*combinations(main, 2), *controls]


def budget(chains: Sequence[Sequence[Row]], tasks: Sequence[str]) -> Row:
    """What an arm spent on each task and on all, means over its chains; None for what a chain did not count."""
    by_task = {
        task: {unit: _mean(stages[index][unit] for stages in chains) for unit in SPENT}
        for index, task in enumerate(tasks)
    }
    total = {
        unit: None if None in (values := [spent[unit] for spent in by_task.values()]) else float(sum(values))
        for unit in SPENT
    }
    return {"tasks": by_task, "total": total}


def _what_is_wrong(chain: Row, tasks: Sequence[str], columns: Sequence[str]) -> str | None:
    """Why a chain cannot be summarised; None if it can."""
    trained = [stage["task"] for stage in chain["stages"]]
    if trained != list(tasks):
        return f"trained on {len(trained)} of {len(tasks)} tasks"
    for column in columns:
        rows = chain["scores"].get(column) or []
        if len(rows) != len(tasks) + 1 or not all(rows):
            return f"{column} was not scored in all {len(tasks) + 1} rows"
        for k, row in enumerate(rows):
            if all(value is None for value in row):
                return f"no answer to {column} could be scored in row {k}"
    return None


def _check_items(chains: Mapping[str, Chains], columns: Sequence[str]) -> None:
    for column in columns:
        counts = {arm: of_arm.scores[column].shape[-1] for arm, of_arm in chains.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"numbers of items of {column}: {counts}; arms are compared on the same items")


def _bootstrap(chains: Mapping[str, Chains], resamples: int, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Means over drawn seeds of the defined metrics and of forgetting by task.

    {arm: {"metrics": {metric: [resamples]}, "by_task": [resamples, T - 1]}}. The same draws of items for all arms, so
    that the difference of two arms is a paired one.
    """
    if not chains:
        return {}
    generator = np.random.default_rng(seed)
    columns = next(iter(chains.values())).scores.values()
    items = [resample_counts(task.shape[-1], resamples, generator) for task in columns]
    drawn = {}
    for arm, of_arm in chains.items():
        matrices = resampled_matrices(list(of_arm.scores.values()), items)  # [resamples, seeds, T + 1, C]
        seeds = matrices.shape[1]
        weights = resample_counts(seeds, resamples, generator) / seeds
        lost = forgetting_by_task(matrices) if matrices.shape[2] > 2 else np.empty((resamples, seeds, 0))
        drawn[arm] = {
            "metrics": {name: (weights * values).sum(axis=1) for name, values in metrics_of(matrices).items()},
            "by_task": (weights[:, :, None] * lost).sum(axis=1),
        }
    return drawn


def _forgetting(matrices: np.ndarray, drawn: np.ndarray, tasks: Sequence[str], confidence: float) -> dict[str, Row]:
    """matrices: [seeds, T + 1, C]. drawn: [resamples, T - 1]."""
    if len(tasks) < 2:
        return {}
    means = forgetting_by_task(matrices).mean(axis=0)
    return {
        task: interval_of_numbers(float(means[index]), drawn[:, index], confidence)
        for index, task in enumerate(tasks[:-1])
    }


def _metric_differences(
    matrices: Sequence[np.ndarray], drawn: Sequence[Mapping[str, np.ndarray]], confidence: float
) -> dict[str, Row | None]:
    """Second minus first. matrices: [seeds, T + 1, C] of both arms. drawn: {metric: [resamples]} of both."""
    first, second = (metrics_of(of_arm) for of_arm in matrices)
    return dict.fromkeys(METRICS) | {
        name: interval_of_numbers(
            float(second[name].mean() - first[name].mean()), drawn[1][name] - drawn[0][name], confidence
        )
        for name in first
    }


def _final_difference(first: np.ndarray, second: np.ndarray, options: Mapping[str, Any]) -> Row:
    """Of the scores [seeds, items] after the last task, second minus first."""
    alone = len(first) == len(second) == 1
    return asdict(paired_difference(first, second, **options)) | {
        "mcnemar": asdict(mcnemar(first[0], second[0])) if alone else None
    }


def _mean(values: Iterable[float | None]) -> float | None:
    counted = list(values)
    return None if None in counted else float(np.mean(counted))
