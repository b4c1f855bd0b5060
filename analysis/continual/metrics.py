"""What a model keeps while it is trained on one task after the other: metrics of accuracy matrices, with intervals.

An accuracy matrix R is [T + 1, C]: row 0 is the model before any training, row k the model after the k-th of T tasks;
column j < T is the task trained (j + 1)-th, columns from T on are tasks that are only evaluated. The scores behind it
come as one array a task, [seeds, T + 1, items], the same items in every row and for every seed; NaN is an answer that
could not be scored, and counts in nothing.

Intervals are percentile bootstraps with two levels: training seeds are drawn with replacement, and so are each task's
items, the same items for every seed and every row, since all of them answered the same items. With one seed an
interval covers the choice of items alone. With n seeds the bootstrap knows only (n - 1) / n of the variance between
seeds: with three it is too narrow by up to a fifth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.statistics import percentile_interval, resample_counts


@dataclass(frozen=True)
class Estimate:
    """A value and the bounds of its confidence interval."""

    value: float
    low: float
    high: float


METRICS = ("average_accuracy", "learning_accuracy", "backward_transfer", "forward_transfer", "forgetting")


def continual_metrics(matrix: np.ndarray) -> dict[str, float | None]:
    """The metrics of one accuracy matrix [T + 1, C], over its T trained tasks. With tasks counted from 1:

        average_accuracy   mean over j of R[T, j]; Lopez-Paz and Ranzato 2017 (arXiv 1706.08840), eq. 2
        learning_accuracy  mean over j of R[j, j], each task right after its own training; Riemer et al. 2019
                           (arXiv 1810.11910), section 6.1
        backward_transfer  mean over j < T of R[T, j] - R[j, j]; Lopez-Paz and Ranzato, eq. 3
        forward_transfer   mean over j > 1 of R[j - 1, j] - R[0, j]; Lopez-Paz and Ranzato, eq. 4, whose reference is
                           the model at initialisation, here the model before the first task
        forgetting         mean over j < T of the maximum over k = 1 .. T - 1 of R[k, j], minus R[T, j]; Chaudhry et
                           al. 2018 (arXiv 1801.10112), eq. 3. It differs from -backward_transfer where a task was
                           best at another time than right after its own training.

    The last three are None for T = 1. Raises ValueError for a matrix without a trained task or with fewer columns
    than trained tasks.
    """
    values = metrics_of(_checked(matrix)[None])
    return {name: None if name not in values else float(values[name][0]) for name in METRICS}


def metrics_of(matrices: np.ndarray) -> dict[str, np.ndarray]:
    """The defined ones of `METRICS` for many matrices [..., T + 1, C] at once, [...] each."""
    tasks = matrices.shape[-2] - 1
    learned = matrices[..., np.arange(tasks) + 1, np.arange(tasks)]  # R[j, j], [..., T]
    last = matrices[..., -1, :tasks]
    values = {"average_accuracy": last.mean(axis=-1), "learning_accuracy": learned.mean(axis=-1)}
    if tasks > 1:
        later = np.arange(1, tasks)
        values["backward_transfer"] = (last - learned)[..., :-1].mean(axis=-1)
        values["forward_transfer"] = (matrices[..., later, later] - matrices[..., 0, later]).mean(axis=-1)
        values["forgetting"] = forgetting_by_task(matrices).mean(axis=-1)
    return values


def forgetting_by_task(matrices: np.ndarray) -> np.ndarray:
    """For each of the first T - 1 tasks its best accuracy over rows 1 to T - 1 minus that of row T.

    [..., T + 1, C] to [..., T - 1]. Negative where the last training made a task better than it ever was (Chaudhry et
    al. 2018, eq. 2). Raises ValueError for a single task.
    """
    matrices = np.asarray(matrices, dtype=float)
    tasks = matrices.shape[-2] - 1
    if tasks < 2:
        raise ValueError("forgetting needs at least 2 trained tasks")
    return matrices[..., 1:-1, : tasks - 1].max(axis=-2) - matrices[..., -1, : tasks - 1]


def accuracy_matrices(scores: Sequence[np.ndarray]) -> np.ndarray:
    """One accuracy matrix a seed, [seeds, T + 1, C], from one array [seeds, T + 1, items] a task.

    Raises ValueError for arrays that do not fit together, and where a model has no scorable answer on a task.
    """
    shapes = [np.shape(task) for task in scores]
    if not shapes or any(len(shape) != 3 for shape in shapes) or len({shape[:2] for shape in shapes}) != 1:
        raise ValueError(f"shapes {shapes}: give one array [seeds, T + 1, items] a task, alike but for the items")
    _checked(np.zeros((shapes[0][1], len(shapes))))
    for index, task in enumerate(scores):
        if np.isnan(task).all(axis=-1).any():
            raise ValueError(f"task {index} has a model without a scorable answer")
    return np.stack([np.nanmean(task, axis=-1) for task in scores], axis=-1)


def matrix_estimate(
    scores: Sequence[np.ndarray], resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, list[list[float]]]:
    """The mean accuracy matrix over the seeds and the ends of its intervals: {value, low, high}, each [T + 1][C]."""
    mean = accuracy_matrices(scores).mean(axis=0)
    low, high = percentile_interval(_resampled(scores, resamples, seed).mean(axis=1), confidence)
    return {"value": mean.tolist(), "low": low, "high": high}


def metric_estimates(
    scores: Sequence[np.ndarray], resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Estimate | None]:
    """The mean over the seeds of each of `METRICS`, with its bootstrap interval; None where a metric is undefined."""
    values = metrics_of(accuracy_matrices(scores))
    # The metric of each seed's matrix, then the mean: the maximum in forgetting does not commute with a mean.
    drawn = metrics_of(_resampled(scores, resamples, seed))
    return dict.fromkeys(METRICS) | {
        name: Estimate(float(value.mean()), *percentile_interval(drawn[name].mean(axis=1), confidence))
        for name, value in values.items()
    }


def paired_difference(
    first: np.ndarray, second: np.ndarray, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Mean score of `second` minus that of `first`, [seeds, items] each, on the same items.

    The methods may have different numbers of seeds. The paired bootstrap: items are drawn once for both methods, the
    seeds of each method on their own. Items that any of the models left unscored are dropped for both. Raises
    ValueError if the items differ in number or none is left.
    """
    first, second = np.atleast_2d(np.asarray(first, float)), np.atleast_2d(np.asarray(second, float))
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"{first.shape[1]} and {second.shape[1]} items: a paired comparison needs the same items")
    scored = ~(np.isnan(first).any(axis=0) | np.isnan(second).any(axis=0))
    if not scored.any():
        raise ValueError("no item was scored for both methods")
    first, second = first[:, scored], second[:, scored]
    generator = np.random.default_rng(seed)
    items = resample_counts(first.shape[1], resamples, generator)
    drawn = [
        (resample_counts(len(scores), resamples, generator) * (items @ scores.T)).sum(axis=1) / scores.size
        for scores in (first, second)
    ]
    difference = float(second.mean() - first.mean())
    return Estimate(difference, *percentile_interval(drawn[1] - drawn[0], confidence))


def resampled_matrices(scores: Sequence[np.ndarray], counts: Sequence[np.ndarray]) -> np.ndarray:
    """Accuracy matrices [resamples, seeds, T + 1, C] with each item as often as it was drawn.

    scores: [seeds, T + 1, items] a task. counts: [resamples, items] a task.
    """
    columns = []
    for task, drawn in zip(scores, counts, strict=True):
        seeds, rows, items = task.shape
        flat = np.asarray(task, dtype=float).reshape(seeds * rows, items)
        scored = ~np.isnan(flat)
        total = drawn @ np.where(scored, flat, 0.0).T
        # A sample may hold no scorable item of a model that left most unscored; it then counts with all its items.
        counted = drawn @ scored.T.astype(float)
        mean = np.where(counted > 0, total / np.where(counted > 0, counted, 1.0), np.nanmean(flat, axis=1))
        columns.append(mean.reshape(-1, seeds, rows))
    return np.stack(columns, axis=-1)


def _resampled(scores: Sequence[np.ndarray], resamples: int, seed: int) -> np.ndarray:
    """Accuracy matrices of bootstrap samples of items and seeds, [resamples, seeds, T + 1, C]."""
    generator = np.random.default_rng(seed)
    matrices = resampled_matrices(scores, [resample_counts(task.shape[-1], resamples, generator) for task in scores])
    chosen = generator.integers(matrices.shape[1], size=(resamples, matrices.shape[1]))
    return matrices[np.arange(resamples)[:, None], chosen]


def _checked(matrix: np.ndarray) -> np.ndarray:
    matrix = np.asarray(matrix, dtype=float)
    if matrix.ndim != 2 or matrix.shape[0] < 2 or matrix.shape[1] < matrix.shape[0] - 1:
        raise ValueError(f"shape {matrix.shape}: an accuracy matrix is [T + 1, C] with T >= 1 and C >= T")
    return matrix
