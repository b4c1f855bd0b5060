"""How far each stage of a sequence of trainings moved a model, and whether that predicts what it forgot.

Shenfeld et al. 2025 ("RL's Razor", arXiv 2509.04259) find that the forward KL on the prompts of the new task predicts
forgetting, whatever the method, and that norms of the update do not.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.criteria import CHAINS_FOR_AN_INTERVAL
from analysis.statistics import percentile_interval, spearman


# What a stage is compared with, and where its divergences and its distance from there stand in the record of the
# stage: the model that the stage started from, or the model before the first task.
REFERENCES = {"step": ("kl_step", "update_norm"), "base": ("kl", "drift_norm")}
# What may predict the loss on the other tasks: the two directions of KL on the prompts of the new task, the distance
# in weights, and how much was learned.
PREDICTORS = ("forward", "reverse", "norm", "gain")
FIT_DEGREE = 2

Row = dict[str, Any]


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
        point: Row = {"arm": arm, "method": method, "seed": seed, "stage": k, "task": stage["task"]}
        for reference, (divergence, norm) in REFERENCES.items():
            kl = stage[divergence]
            point[reference] = {
                **{way: None if kl is None else kl[way]["value"] for way in ("forward", "reverse")},
                "norm": stage[norm],
                "gain": float(matrix[k, k - 1] - before[reference]),
                "loss": float(lost[reference].mean()) if lost[reference].size else None,
            }
        points.append(point)
    return points


def drift_and_forgetting(
    points: Sequence[Row], resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """How well each of `PREDICTORS` ranks the stages by their loss on the other tasks. points: of `stage_points`.

        points    as given
        step, base    {"all" or a method: {predictor: relation}}, where a relation has

            correlation   Spearman's rank correlation of predictor and loss, {value, low, high}
            forward_minus correlation of the forward KL minus this one, {value, low, high}; None for itself
            fit           least squares, loss = sum of coefficients[i] predictor ** i, of degree 2, and r_squared
            points, chains    how many of each it is made of

    The stages of a chain depend on each other, so that the bootstrap draws whole chains; with fewer than
    CHAINS_FOR_AN_INTERVAL of them there is no interval. Draws in which all values are alike have no rank correlation
    and count in no interval.
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
    """Spearman's rank correlation; NaN for fewer than 3 pairs or equal values only."""
    if len(first) < 3:
        return math.nan
    # Equal shares of items, computed from different accuracies, may differ in their last bits.
    return float(spearman(np.round(first, 12), np.round(second, 12)))


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


def interval_of_numbers(value: float, drawn: np.ndarray, confidence: float) -> dict[str, float | None]:
    """{value, low, high}: the percentile interval of the drawn values that are numbers; None for what is undefined."""
    numbers = drawn[~np.isnan(drawn)]
    if math.isnan(value):
        return {"value": None, "low": None, "high": None}
    low, high = percentile_interval(numbers, confidence) if numbers.size else (None, None)
    return {"value": value, "low": low, "high": high}


def _relations(points: Sequence[Row], resamples: int, confidence: float, seed: int) -> dict[str, Row]:
    """`drift_and_forgetting` of one group of points, each with its predictors and its loss at the top."""
    chains: dict[tuple[str, str], list[Row]] = {}
    for point in points:
        if point["loss"] is not None:
            chains.setdefault((point["arm"], point["seed"]), []).append(point)
    count = len(chains)
    enough = count >= CHAINS_FOR_AN_INTERVAL
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
            "correlation": interval_of_numbers(rank_correlation(*known.T), drawn[name], confidence),
            "fit": polynomial_fit(*known.T),
            "points": len(known),
            "chains": sum(len(pair) > 0 for pair in pairs),
        }
    forward = relations["forward"]["correlation"]["value"]
    for name, relation in relations.items():
        value = relation["correlation"]["value"]
        ahead = math.nan if None in (forward, value) else forward - value
        relation["forward_minus"] = (
            None if name == "forward" else interval_of_numbers(ahead, drawn["forward"] - drawn[name], confidence)
        )
    return relations
