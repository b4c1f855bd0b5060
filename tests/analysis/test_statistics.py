"""Statistics against published tables, closed forms and counting."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats

from analysis.statistics import (
    McNemar,
    chance_of_mean_above,
    chance_overlap,
    exact_share,
    holm,
    interval_of_draws,
    interval_of_known_std,
    mcnemar,
    mean_with_interval,
    median_time,
    percentile_interval,
    resample_counts,
    spearman,
)


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (9, 2.2622), (60, 2.0003)])
def test_students_interval_has_the_quantiles_of_the_tables(freedom, quantile):
    values = list(range(freedom + 1))
    mean, low, high = mean_with_interval(values)
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert mean == freedom / 2 and (high - low) / 2 / error == pytest.approx(quantile, abs=5e-5)
    assert (low + high) / 2 == pytest.approx(mean)


def test_one_value_has_a_mean_and_no_interval():
    assert mean_with_interval([3.0]) == (3.0, None, None)


def test_overlap_by_chance_is_a_share_of_all_pairs_of_sets():
    for shared, of, one, other in ((2, 10, 5, 4), (0, 8, 3, 3), (6, 8, 6, 7), (4, 8, 4, 4)):
        drawn = [len(set(members) & set(range(one))) for members in combinations(range(of), other)]
        share = sum(number >= shared for number in drawn) / len(drawn)
        assert chance_overlap(shared, of, one, other) == pytest.approx(share)


@pytest.mark.parametrize(("share", "total"), [(0.15, 100), (1 / 3, 3), (0.814, 500), (0.0, 7), (1.0, 7)])
def test_a_share_is_its_count(share, total):
    assert exact_share(share, total) == Fraction(round(share * total), total)


def test_shares_that_differ_by_a_limit_meet_it():
    assert 0.15 - 0.05 < 0.1 and exact_share(0.15, 100) - exact_share(0.05, 100) == Fraction(1, 10)
    assert float(exact_share(0.85, 500) - exact_share(0.8, 500)) == 0.05


def test_partial_credit_and_unknown_totals_stay_as_they_are():
    assert exact_share(0.1234567, 10) == Fraction(0.1234567)
    assert exact_share(0.15, None) == Fraction(0.15)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 5, 1.0),
        (0, 5, 2 / 32),
        (0, 6, 2 / 64),
        (1, 9, 2 * 11 / 1024),
        (9, 1, 2 * 11 / 1024),
        (2, 8, 2 * 56 / 1024),
        (0, 2000, 0.0),
    ],
)
def test_mcnemar_by_hand(only_first, only_second, p_value):
    first = [1.0] * only_first + [0.0] * only_second + [1.0] * 7 + [0.0] * 3 + [None, 1.0]
    second = [0.0] * only_first + [1.0] * only_second + [1.0] * 7 + [0.0] * 3 + [1.0, math.nan]
    assert mcnemar(first, second) == McNemar(only_first, only_second, pytest.approx(p_value, abs=1e-300))


def test_mcnemar_needs_the_same_items():
    with pytest.raises(ValueError, match="same items"):
        mcnemar([1.0], [1.0, 0.0])


def test_median_without_censoring_is_the_median_in_log_time():
    assert median_time([5.0, 1.0, 3.0], [True] * 3) == 3.0
    assert median_time([2.0, 8.0], [True] * 2) == pytest.approx(4.0)
    assert median_time([7.0], [True]) == 7.0


def test_median_of_censored_times_is_kaplan_and_meiers():
    # Survival 4/5, then 4/5 * 2/3 = 8/15, then 8/15 * 1/2: the third observed time.
    assert median_time([1, 2, 3, 4, 9], [True, False, True, True, False]) == 4
    assert median_time([1, 9, 9], [True, False, False]) is None
    assert median_time([1, 9], [True, False]) == 1
    # A run censored at the moment of a strike is still at risk there.
    assert median_time([5, 5, 6], [True, False, True]) == 6
    assert median_time([3, 4], [False, False]) is None
    with pytest.raises(ValueError, match="no times"):
        median_time([], [])


def test_rank_correlation_takes_mean_ranks_along_the_last_axis():
    draws = np.random.default_rng(0).integers(5, size=(2, 3, 40))
    correlations = spearman(*draws)
    assert correlations.shape == (3,)
    for row in range(3):
        assert correlations[row] == pytest.approx(stats.spearmanr(draws[0, row], draws[1, row]).statistic)
    assert spearman(np.array([1.0, 1.0, 2.0]), np.array([1.0, 1.0, 2.0])) == 1.0
    assert np.isnan(spearman(np.ones(4), np.arange(4)))


@pytest.mark.parametrize("new", [np.random.default_rng, lambda seed: torch.Generator().manual_seed(seed)])
def test_resamples_have_as_many_items_and_the_spread_of_draws_with_replacement(new):
    counts = resample_counts(20, 5000, new(0))
    assert tuple(counts.shape) == (5000, 20) and (counts.sum(1) == 20).all()
    # Each count is binomial of 20 and 1/20.
    spread = np.asarray(counts, dtype=float)
    assert spread.mean(axis=0) == pytest.approx(np.ones(20), abs=0.07)
    assert spread.var(axis=0) == pytest.approx(np.full(20, 0.95), abs=0.15)
    assert (resample_counts(20, 5000, new(0)) == counts).all()


def test_the_bootstrap_of_a_mean_has_its_standard_error():
    values = np.random.default_rng(1).normal(size=400)
    low, high = percentile_interval(resample_counts(400, 8000, np.random.default_rng(2)) @ values / 400)
    assert low < values.mean() < high
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.05)


def test_percentiles_are_between_the_draws_and_taken_for_every_column():
    values = np.arange(201.0)
    assert percentile_interval(values) == (5.0, 195.0)
    assert percentile_interval(torch.tensor(values), 0.5) == (50.0, 150.0)
    assert percentile_interval(np.stack([values, 2 * values], axis=1)) == ([5.0, 10.0], [195.0, 390.0])
    with pytest.raises(ValueError, match="confidence"):
        percentile_interval(values, 1.0)


def test_the_ends_of_an_interval_with_censored_draws_are_draws():
    assert interval_of_draws([math.inf, 1.0, 2.0, 4.0], 0.5) == (1.0, None)
    assert interval_of_draws([4.0, 1.0, 2.0, 3.0], 0.5) == (1.0, 4.0)
    assert interval_of_draws([math.inf] * 3) == (None, None)


def test_holm_multiplies_the_smallest_most_and_never_turns_the_order_round():
    # Worked by hand: 3 * 0.01, then 2 * 0.03, then 0.04 raised to what stands before it.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_a_one_sided_test_agrees_with_the_interval_and_decides_exactly_without_spread():
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    _, low, _ = mean_with_interval(values)
    assert chance_of_mean_above(values, low) == pytest.approx(0.025)
    assert chance_of_mean_above([2.0, 2.0], 1.0) == 0.0 and chance_of_mean_above([2.0, 2.0], 2.0) == 1.0
    _, low, high = interval_of_known_std([1.0, 3.0], 1.0)
    assert (low, high) == pytest.approx((2 - 1.959964 / 2**0.5, 2 + 1.959964 / 2**0.5))
    assert chance_of_mean_above([1.0, 3.0], low, known_std=1.0) == pytest.approx(0.025)
