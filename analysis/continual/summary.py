"""What trainings one after the other did to a model: the summary of a sequential run, from its per-item scores.

The run holds, for each arm (a method with its options) and each seed, one chain: a model trained on T tasks in order,
scored on C columns (the T tasks, then tasks that are only evaluated) before the first task and after each. All chains
answered the same items. Everything here is a pure function of that record.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from analysis.criteria import CHAINS_FOR_AN_INTERVAL
from eval.continual import (
    METRICS,
    Estimate,
    accuracy_matrices,
    continual_metrics,
    forgetting_by_task,
    matrix_estimate,
    metric_estimates,
    paired_difference,
)


# What a stage is compared with, and where its divergences and its distance from there stand in the record of the
# stage: the model that the stage started from, or the model before the first task.
REFERENCES = {"step": ("kl_step", "update_norm"), "base": ("kl", "drift_norm")}
# What may predict the loss on the other tasks: the two directions of KL on the prompts of the new task, the distance
# in weights, and how much was learned.
PREDICTORS = ("forward", "reverse", "norm", "gain")
SPENT = ("steps", "completions", "tokens", "seconds")
# Of n chains drawn with replacement, a share of n ** (1 - n) of the draws repeats one chain. From 4 chains on this is
# less than the 2.5 % that lie beyond either end of a 95 % interval.
FIT_DEGREE = 2

Row = dict[str, Any]


def summarise(results: Mapping[str, Any], resamples: int = 2000, confidence: float = 0.95, seed: int = 0) -> Row:
    """The summary of a sequential run, ready for JSON. An interval is {value, low, high}, in shares of 1.

    results: `tasks`, `columns` and `arms` of results.json of recipes/sequential.py.

    seeds       {arm: {seed: {metric: value or null}}} of the complete chains
    left_out    {"arm/seed": why a chain counts in nothing}
    main        the first arm of each method; the others are its controls
    matrix      {arm: {value, low, high}}, each [T + 1][C]: mean accuracy over seeds
    metrics     {arm: {metric: interval or null}}, see `eval.continual.continual_metrics`
    forgetting  {arm: {task: interval}} of the first T - 1 tasks, see `eval.continual.forgetting_by_task`
    pairs       {"a|b": {metrics: {metric: interval or null}, final: {column: interval}}}: b minus a on the same items,
                for every two main arms, and for each control (b) against the main arm of its method (a)
    drift       how the loss on the other tasks goes with the drift of a stage, see `drift_and_forgetting`
    budget      {arm: {tasks: {task: {steps, completions, tokens, seconds}}, total: the same}}, means over seeds

    Intervals are bootstraps over seeds and items, see `eval.continual.metric_estimates`; for the differences of
    metrics the items are drawn once for both arms, the seeds of each on their own. Raises ValueError if chains were
    scored on different numbers of items.
    """
    tasks, columns = list(results["tasks"]), list(results["columns"])
    scores, left_out = complete_chains(results["arms"], tasks, columns)
    _check_items(scores, columns)
    options = {"resamples": resamples, "confidence": confidence, "seed": seed}
    lists = {arm: list(by_column.values()) for arm, (_, by_column) in scores.items()}
    matrices = {arm: accuracy_matrices(arrays) for arm, arrays in lists.items()}
    drawn = _bootstrap(lists, resamples, seed)
    methods = {arm: results["arms"][arm]["method"] for arm in scores}
    main = main_arms(methods)
    points = [
        point
        for arm, (seeds, _) in scores.items()
        for chain, matrix in zip(seeds, matrices[arm], strict=True)
        for point in stage_points(arm, methods[arm], chain, results["arms"][arm]["seeds"][chain]["stages"], matrix)
    ]
    return {
        "seeds": {
            arm: {chain: continual_metrics(matrix) for chain, matrix in zip(seeds, matrices[arm], strict=True)}
            for arm, (seeds, _) in scores.items()
        },
        "left_out": left_out,
        "main": main,
        "matrix": {arm: _by_end(matrix_estimate(arrays, **options)) for arm, arrays in lists.items()},
        "metrics": {
            arm: {name: _as_row(found) for name, found in metric_estimates(arrays, **options).items()}
            for arm, arrays in lists.items()
        },
        "forgetting": {
            arm: {
                task: _interval(
                    float(np.mean([forgetting_by_task(matrix)[index] for matrix in matrices[arm]])),
                    drawn[arm]["by_task"][:, index],
                    confidence,
                )
                for index, task in enumerate(tasks[:-1])
            }
            for arm in scores
        },
        "pairs": {
            f"{one}|{other}": {
                "metrics": _metric_differences(
                    [[continual_metrics(matrix) for matrix in matrices[arm]] for arm in (one, other)],
                    [drawn[arm]["metrics"] for arm in (one, other)],
                    confidence,
                ),
                "final": {
                    column: asdict(
                        paired_difference(scores[one][1][column][:, -1], scores[other][1][column][:, -1], **options)
                    )
                    for column in columns
                },
            }
            for one, other in arm_pairs(methods)
        },
        "drift": drift_and_forgetting(points, **options),
        "budget": {
            arm: budget([results["arms"][arm]["seeds"][chain]["stages"] for chain in seeds], tasks)
            for arm, (seeds, _) in scores.items()
        },
    }


def complete_chains(
    arms: Mapping[str, Row], tasks: Sequence[str], columns: Sequence[str]
) -> tuple[dict[str, tuple[list[str], dict[str, np.ndarray]]], dict[str, str]]:
    """The chains that every number is made of, and why the others are not among them.

    Returns {arm: (seeds, {column: [seeds, T + 1, items]})}, NaN for an answer that could not be scored, without the
    arms that have no complete chain; and {"arm/seed": reason}.
    """
    complete, left_out = {}, {}
    for arm, entry in arms.items():
        seeds = []
        for seed, chain in entry["seeds"].items():
            reason = _what_is_wrong(chain, tasks, columns)
            if reason is None:
                seeds.append(seed)
            else:
                left_out[f"{arm}/{seed}"] = reason
        if seeds:
            complete[arm] = (
                seeds,
                {
                    column: np.array([entry["seeds"][seed]["scores"][column] for seed in seeds], dtype=float)
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


def stage_points(arm: str, method: str, seed: str, stages: Sequence[Row], matrix: np.ndarray) -> list[Row]:
    """What each stage k = 1 .. T of a chain moved, gained and lost, against both `REFERENCES`; matrix: [T + 1, C].

    Each reference has the `PREDICTORS` and a loss:

        step    loss = mean over all columns j other than the k-th of R[k - 1, j] - R[k, j],
                gain = R[k, k] - R[k - 1, k]
        base    loss = mean over the columns j that no stage up to k was trained on of R[0, j] - R[k, j],
                gain = R[k, k] - R[0, k]

    Tasks trained before k are left out of the second: against the base they carry what their own training gained. A
    loss over no column is None.
    """
    points = []
    for k, stage in enumerate(stages, start=1):
        others = np.arange(matrix.shape[1]) != k - 1
        lost = {"step": (matrix[k - 1] - matrix[k])[others], "base": (matrix[0] - matrix[k])[k:]}
        before = {"step": matrix[k - 1, k - 1], "base": matrix[0, k - 1]}
        points.append(
            {"arm": arm, "method": method, "seed": seed, "stage": k, "task": stage["task"]}
            | {
                reference: {
                    "forward": _divergence(stage, divergence, "forward"),
                    "reverse": _divergence(stage, divergence, "reverse"),
                    "norm": stage[norm],
                    "gain": float(matrix[k, k - 1] - before[reference]),
                    "loss": float(lost[reference].mean()) if lost[reference].size else None,
                }
                for reference, (divergence, norm) in REFERENCES.items()
            }
        )
    return points


def drift_and_forgetting(
    points: Sequence[Row], resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """How well each of `PREDICTORS` ranks the stages by their loss on the other tasks.

    Shenfeld et al. 2025 ("RL's Razor", arXiv 2509.04259) find that the forward KL on the prompts of the new task
    predicts forgetting, whatever the method, and that norms of the update do not. points: of `stage_points`. Returns

        points    as given
        step, base    {"all" or a method: {predictor: relation}}, where a relation has

            correlation   Spearman's rank correlation of predictor and loss, {value, low, high}
            forward_minus correlation of the forward KL minus this one, {value, low, high}; None for itself
            fit           least squares, loss = sum of coefficients[i] predictor ** i, of degree 2, and r_squared
            points, chains    how many of each it is made of

    The stages of a chain depend on each other, so that the bootstrap draws whole chains; with fewer than 4 of them
    there is no interval. Draws in which all values are alike have no rank correlation and count in no interval.
    """
    methods = list(dict.fromkeys(point["method"] for point in points))
    groups = {"all": list(points)}
    if len(methods) > 1:
        groups |= {method: [point for point in points if point["method"] == method] for method in methods}
    return {"points": list(points)} | {
        reference: {
            name: _relations([point | point[reference] for point in group], resamples, confidence, seed)
            for name, group in groups.items()
        }
        for reference in REFERENCES
    }


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation, ties with their mean rank; NaN for fewer than 3 pairs or equal values only."""
    if len(first) < 3:
        return math.nan
    one, other = (ranks - ranks.mean() for ranks in (_ranks(first), _ranks(second)))
    length = math.sqrt((one @ one) * (other @ other))
    return float(one @ other) / length if length else math.nan


def polynomial_fit(x: Sequence[float], y: Sequence[float]) -> Row | None:
    """Least squares of degree 2, {coefficients: constant first, r_squared}; None if it would pass through any points.

    r_squared is None where y does not vary.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) <= FIT_DEGREE + 1 or len(np.unique(x)) <= FIT_DEGREE:
        return None
    scale = np.abs(x).max()
    powers = np.vander(x / scale, FIT_DEGREE + 1, increasing=True)
    coefficients, *_ = np.linalg.lstsq(powers, y, rcond=None)
    spread = float(((y - y.mean()) ** 2).sum())
    left = float(((y - powers @ coefficients) ** 2).sum())
    return {
        "coefficients": [float(c / scale**i) for i, c in enumerate(coefficients)],
        "r_squared": 1 - left / spread if spread else None,
    }


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
    rows = len(tasks) + 1
    trained = [stage["task"] for stage in chain["stages"]]
    if trained != list(tasks):
        return f"trained on {len(trained)} of {len(tasks)} tasks"
    for column in columns:
        found = chain["scores"].get(column) or []
        if len(found) != rows or any(not row for row in found):
            return f"{column} was not scored in all {rows} rows"
        for k, row in enumerate(found):
            if all(value is None for value in row):
                return f"no answer to {column} could be scored in row {k}"
    return None


def _check_items(scores: Mapping[str, tuple[list[str], dict[str, np.ndarray]]], columns: Sequence[str]) -> None:
    for column in columns:
        counts = {arm: by_column[column].shape[-1] for arm, (_, by_column) in scores.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"numbers of items of {column}: {counts}; arms are compared on the same items")


def _bootstrap(
    scores: Mapping[str, Sequence[np.ndarray]], resamples: int, seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """Means over drawn seeds of metrics and of forgetting by task: `metrics` [resamples, 5], `by_task` [., T - 1].

    The same draws of items for all arms, so that the difference of two arms is a paired one.
    """
    if not scores:
        return {}
    generator = np.random.default_rng(seed)
    items = [task.shape[-1] for task in next(iter(scores.values()))]
    weights = [_draw_counts(generator, resamples, count) for count in items]
    drawn = {}
    for arm, arrays in scores.items():
        matrices = np.stack([_weighted(task, w) for task, w in zip(arrays, weights, strict=True)], axis=-1)
        flat = matrices.reshape(-1, *matrices.shape[2:])
        shape = matrices.shape[:2]
        metrics = np.array(
            [[math.nan if value is None else value for value in continual_metrics(matrix).values()] for matrix in flat]
        ).reshape(*shape, -1)
        several = matrices.shape[2] > 2
        by_task = np.array([forgetting_by_task(matrix) if several else [] for matrix in flat]).reshape(*shape, -1)
        seeds = _draw_counts(generator, resamples, shape[1])[:, :, None] / shape[1]
        drawn[arm] = {"metrics": (seeds * metrics).sum(axis=1), "by_task": (seeds * by_task).sum(axis=1)}
    return drawn


def _weighted(task: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Accuracy under each weighting: [seeds, T + 1, items] and [resamples, items] to [resamples, seeds, T + 1]."""
    seeds, rows, items = task.shape
    flat = task.reshape(seeds * rows, items)
    scored = ~np.isnan(flat)
    counted = weights @ scored.T.astype(float)
    total = weights @ np.where(scored, flat, 0.0).T
    # A draw without a scorable item of some model counts with all of that model's items.
    mean = np.where(counted > 0, total / np.where(counted > 0, counted, 1.0), np.nanmean(flat, axis=1))
    return mean.reshape(-1, seeds, rows)


def _draw_counts(generator: np.random.Generator, resamples: int, count: int) -> np.ndarray:
    """How often each of `count` is drawn in `count` draws with replacement, [resamples, count]."""
    return generator.multinomial(count, np.full(count, 1 / count), size=resamples)


def _metric_differences(
    values: Sequence[Sequence[Mapping[str, float | None]]], drawn: Sequence[np.ndarray], confidence: float
) -> dict[str, Row | None]:
    """Second minus first. values: the metrics of each chain of both arms. drawn: [resamples, metrics] of both."""
    one, other = values
    return {
        name: None
        if one[0][name] is None
        else _interval(
            float(np.mean([chain[name] for chain in other]) - np.mean([chain[name] for chain in one])),
            drawn[1][:, index] - drawn[0][:, index],
            confidence,
        )
        for index, name in enumerate(METRICS)
    }


def _relations(points: Sequence[Row], resamples: int, confidence: float, seed: int) -> dict[str, Row]:
    """`drift_and_forgetting` of one group of points, each with its predictors and its loss at the top."""
    chains: dict[tuple[str, str], list[Row]] = {}
    for point in points:
        if point["loss"] is not None:
            chains.setdefault((point["arm"], point["seed"]), []).append(point)
    enough = len(chains) >= CHAINS_FOR_AN_INTERVAL
    count = len(chains)
    draws = np.random.default_rng(seed).integers(count, size=(resamples, count)) if enough else []
    relations, drawn = {}, {}
    for name in PREDICTORS:
        pairs = [
            np.array([(point[name], point["loss"]) for point in chain if point[name] is not None]).reshape(-1, 2)
            for chain in chains.values()
        ]
        known = np.concatenate([np.empty((0, 2)), *pairs])
        drawn[name] = np.array([rank_correlation(*np.concatenate([pairs[i] for i in draw]).T) for draw in draws])
        relations[name] = {
            "correlation": _interval(rank_correlation(*known.T), drawn[name], confidence),
            "fit": polynomial_fit(*known.T),
            "points": len(known),
            "chains": sum(len(pair) > 0 for pair in pairs),
        }
    forward = relations["forward"]["correlation"]["value"]
    for name, relation in relations.items():
        value = relation["correlation"]["value"]
        known = None not in (forward, value)
        relation["forward_minus"] = (
            None
            if name == "forward"
            else _interval(forward - value if known else math.nan, drawn["forward"] - drawn[name], confidence)
        )
    return relations


def _ranks(values: Sequence[float]) -> np.ndarray:
    # Equal shares of items, computed from different accuracies, may differ in their last bits.
    _, places, counts = np.unique(np.round(values, 12), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[places]


def _interval(value: float, drawn: np.ndarray, confidence: float) -> dict[str, float | None]:
    """Percentile interval of the drawn values that are numbers; None for what is not defined."""
    numbers = drawn[~np.isnan(drawn)]
    if math.isnan(value):
        return {"value": None, "low": None, "high": None}
    if not numbers.size:
        return {"value": value, "low": None, "high": None}
    low, high = np.quantile(numbers, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"value": value, "low": float(low), "high": float(high)}


def _by_end(matrix: Sequence[Sequence[Estimate]]) -> dict[str, list[list[float]]]:
    rows = [[asdict(entry) for entry in row] for row in matrix]
    return {end: [[entry[end] for entry in row] for row in rows] for end in ("value", "low", "high")}


def _as_row(found: Estimate | None) -> Row | None:
    return None if found is None else asdict(found)


def _divergence(stage: Row, name: str, direction: str) -> float | None:
    found = stage[name]
    return None if found is None else found[direction]["value"]


def _mean(values: Iterable[float | None]) -> float | None:
    found = list(values)
    return None if None in found else float(np.mean(found))
