"""Confidence intervals for accuracies, means and ratios."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev

import numpy as np
from scipy.stats import binomtest, norm


BOOTSTRAP_DRAWS = 2000


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval for the chance of being right, from `correct` of `total` independent answers.

    Wilson 1927, J. Am. Stat. Assoc. 22:209-212, without continuity correction. It never leaves [0, 1] and is not empty
    at 0 or `total` correct. Raises ValueError unless 0 <= correct <= total, total > 0 and 0 < confidence < 1.
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"{correct} correct of {total}: not a proportion")
    _check(confidence)
    low, high = binomtest(correct, total).proportion_ci(confidence, method="wilson")
    return float(low), float(high)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """The normal-approximation interval for a mean: mean -/+ z * s / sqrt(n), s the sample standard deviation (n - 1).

    For independent values, and many of them: with few, or with values crowded at one end of their range, it is too
    narrow. For right or wrong answers take `wilson_interval`. Raises ValueError for fewer than two values or a
    confidence outside (0, 1).
    """
    if len(values) < 2:
        raise ValueError(f"an interval for a mean needs at least 2 values, not {len(values)}")
    _check(confidence)
    mean = fmean(values)
    half = float(norm.ppf((1 + confidence) / 2)) * stdev(values) / sqrt(len(values))
    return mean - half, mean + half


def ratio_with_interval(
    numerators: Sequence[float], denominators: Sequence[float], seed: int
) -> tuple[float, float, float]:
    """sum(numerators) / sum(denominators) and its 95 % percentile bootstrap interval (low, high).

    Sequences, as pairs of numerator and denominator, are resampled with replacement 2,000 times.
    """
    pairs = np.stack([np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)])
    count = pairs.shape[1]
    counts = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=BOOTSTRAP_DRAWS)
    resampled = counts @ pairs.T  # [draws, 2]
    numerator, denominator = pairs.sum(axis=1)
    low, high = np.quantile(resampled[:, 0] / resampled[:, 1], (0.025, 0.975)).tolist()
    return float(numerator / denominator), low, high


def _check(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1")
