"""Every statistic of the analyses, once, on scipy. Evaluations need Wilson's interval too: see `eval.intervals`.

The bootstrap is `resample_counts` and `percentile_interval`: a resample is how often each item was drawn, so that a
mean over a resample is a product with its counts, and one set of draws serves several numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean, stdev

import numpy as np
import torch
from scipy import stats

from analysis.criteria import CONFIDENCE


@dataclass(frozen=True)
class McNemar:
    """only_first, only_second: items that one model alone has right. p_value: two-sided, exact."""

    only_first: int
    only_second: int
    p_value: float


def mean_with_interval(
    values: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float | None, float | None]:
    """Mean and Student's interval: mean -/+ t s / sqrt(n), n - 1 degrees of freedom. A single value has no ends."""
    mean = fmean(values)
    if len(values) < 2:
        return mean, None, None
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def interval_of_known_std(
    values: Sequence[float], std: float, confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """Mean and the normal interval of values whose standard deviation theory gives: mean -/+ z std / sqrt(n)."""
    mean = fmean(values)
    half = float(stats.norm.ppf((1 + confidence) / 2)) * std / math.sqrt(len(values))
    return mean, mean - half, mean + half


def chance_of_mean_above(values: Sequence[float], limit: float, known_std: float | None = None) -> float:
    """One-sided p-value of the hypothesis that the mean is at most `limit`; Student's, or normal with a known spread.

    Values without any spread decide exactly: 0 above the limit, 1 at it or below. Raises ValueError for fewer than two
    values of unknown spread.
    """
    spread = stdev(values) if known_std is None else known_std
    difference = fmean(values) - limit
    if spread == 0:
        return 0.0 if difference > 0 else 1.0
    score = difference / (spread / math.sqrt(len(values)))
    return float(stats.t.sf(score, len(values) - 1) if known_std is None else stats.norm.sf(score))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of Holm 1979 (Scand. J. Statist. 6:65-70), in the order given.

    Rejecting those up to alpha keeps the chance of any false rejection among all m at alpha, however they depend on
    each other: the i-th smallest (from 0) is multiplied by m - i, and none is smaller than one before it.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def exact_share(share: float, total: int | None) -> Fraction:
    """A share of `total` as its count over it, so that 15 of 100 less 5 of 100 is 1/10, which floats miss.

    As it stands where the total is not known, or where partial credit makes it no count.
    """
    count = round(share * total) if total else 0
    return Fraction(count, total) if total and abs(count - share * total) < 1e-6 else Fraction(share)


def chance_overlap(shared: int, of: int, one: int, other: int) -> float:
    """Probability that random sets of `one` and `other` of `of` members share `shared` or more (hypergeometric)."""
    return float(stats.hypergeom.sf(shared - 1, of, one, other))


def mcnemar(first: Sequence[float | None], second: Sequence[float | None]) -> McNemar:
    """The exact test of McNemar 1947 (Psychometrika 12:153-157): are two models right equally often on the same items?

    The items that only one of them has right are, if so, fair coin tosses. Right is 1.0; an item that either left
    unscored (None or NaN) is dropped. For one model each; with several training seeds bootstrap the paired difference.
    Raises ValueError for lists of different lengths.
    """
    scores = [np.asarray(values, dtype=float) for values in (first, second)]
    if len(scores[0]) != len(scores[1]):
        raise ValueError(f"{len(first)} and {len(second)} items; a paired test needs the same items")
    scored = ~np.isnan(scores[0]) & ~np.isnan(scores[1])
    right = [values == 1.0 for values in scores]
    only_first, only_second = (
        int((one & ~other & scored).sum()) for one, other in ((right[0], right[1]), (right[1], right[0]))
    )
    tosses = only_first + only_second
    p_value = float(stats.binomtest(only_first, tosses).pvalue) if tosses else 1.0
    return McNemar(only_first, only_second, p_value)


def median_time(times: Sequence[float], observed: Sequence[bool]) -> float | None:
    """The median of partly right-censored times: the first at which the Kaplan-Meier survival is at most one half.

    Kaplan and Meier 1958, J. Am. Stat. Assoc. 53:457-481. Where survival is exactly one half after a time, the median
    is the middle between this time and the next observed one in log time, so that without censoring an even number of
    times gives their geometric median; without a next observed one it is this time.

    times: positive; observed[i] False says that the true time lies beyond times[i]. A time censored at the moment of
    an observed one counts as later. None if more than half of the survival is left at the end.
    Raises ValueError if there is no time at all.
    """
    if not len(times):
        raise ValueError("the median of no times")
    seen = np.asarray(observed, dtype=bool)
    if not seen.any():
        return None
    survival = stats.ecdf(stats.CensoredData.right_censored(np.asarray(times, dtype=float), ~seen)).sf
    strikes = np.unique(np.asarray(times, dtype=float)[seen])
    left = survival.evaluate(strikes)
    halved = int(np.argmax(left <= 0.5 + 1e-9))
    if left[halved] > 0.5 + 1e-9:
        return None
    if left[halved] > 0.5 - 1e-9 and halved + 1 < len(strikes):
        return math.sqrt(strikes[halved] * strikes[halved + 1])
    return float(strikes[halved])


def spearman(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation along the last axis, [..., N] to [...]; equal values share their mean rank.

    NaN where all values of one side are equal.
    """
    first, second = (stats.rankdata(values, axis=-1) for values in (one, other))
    first, second = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (first, second))
    lengths = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    with np.errstate(invalid="ignore"):
        return (first * second).sum(axis=-1) / lengths


def resample_counts(
    count: int, resamples: int, generator: np.random.Generator | torch.Generator
) -> np.ndarray | torch.Tensor:
    """How often each of `count` items comes in `count` draws with replacement, [resamples, count].

    The kind of the generator decides the kind of the result: whole numbers of numpy, or float64 of torch on the CPU.
    """
    if isinstance(generator, np.random.Generator):
        return generator.multinomial(count, np.full(count, 1 / count), size=resamples)
    drawn = torch.randint(count, (resamples, count), generator=generator)
    ones = torch.ones(resamples, count, dtype=torch.float64)
    return torch.zeros(resamples, count, dtype=torch.float64).scatter_add_(1, drawn, ones)


def percentile_interval(
    values: np.ndarray | torch.Tensor | Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The percentile interval of a statistic from its values on resamples (Efron and Tibshirani 1993, chapter 13).

    values: [resamples] for a pair of numbers, [resamples, ...] for a pair of nested lists [...]. Raises ValueError for
    a confidence outside (0, 1).
    """
    low, high = np.quantile(np.asarray(values), _tails(confidence), axis=0).tolist()
    return low, high


def interval_of_draws(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float | None, float | None]:
    """As `percentile_interval`, but of values that may be infinite, for clocks that did not strike (censored).

    Its ends are values that were drawn, the next further out, as there is no middle between a number and infinity.
    None for an end that is infinite.
    """
    low_tail, high_tail = _tails(confidence)
    ends = np.quantile(values, low_tail, method="lower"), np.quantile(values, high_tail, method="higher")
    low, high = (None if math.isinf(end) else float(end) for end in ends)
    return low, high


def _tails(confidence: float) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1")
    tail = round((1 - confidence) / 2, 12)  # in binary 1 - 0.95 is not 0.05
    return tail, 1 - tail
