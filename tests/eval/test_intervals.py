"""eval/intervals.py against published values and against what defines the intervals."""

from math import sqrt
from statistics import NormalDist

import pytest

from eval.intervals import mean_interval, wilson_interval


# Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3 (score, without continuity correction).
@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(correct, total, low, high):
    assert tuple(round(bound, 4) for bound in wilson_interval(correct, total)) == (low, high)


@pytest.mark.parametrize(("correct", "total"), [(1, 2), (3, 10), (250, 500), (499, 500), (12_345, 1_000_000)])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_wilson_bounds_are_where_the_score_test_just_rejects(correct, total, confidence):
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    for bound in wilson_interval(correct, total, confidence):
        assert abs(correct / total - bound) == pytest.approx(z * sqrt(bound * (1 - bound) / total), rel=1e-9)


def test_wilson_is_symmetric_and_stays_in_bounds():
    for total in (1, 7, 500):
        for correct in range(total + 1):
            low, high = wilson_interval(correct, total)
            mirrored = wilson_interval(total - correct, total)
            assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]), abs=1e-12)
            assert 0 <= low <= correct / total <= high <= 1
            assert low < high
    assert wilson_interval(0, 500)[0] == 0.0
    assert wilson_interval(500, 500)[1] == 1.0


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_not_a_proportion(correct, total):
    with pytest.raises(ValueError, match="not a proportion"):
        wilson_interval(correct, total)


def test_mean_interval():
    # Mean 3, s = sqrt(2.5), z = 1.959964.
    half = 1.959964 * sqrt(2.5) / sqrt(5)
    assert mean_interval([1, 2, 3, 4, 5]) == pytest.approx((3 - half, 3 + half), abs=1e-6)
    # One standard deviation either side: 68.27 %.
    assert mean_interval([0.0, 1.0], 0.6826895) == pytest.approx((0.0, 1.0), abs=1e-6)
    assert mean_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def test_mean_interval_needs_two_values():
    for values in ([], [0.5]):
        with pytest.raises(ValueError, match="needs at least 2 values"):
            mean_interval(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, -0.5, float("nan")])
def test_confidence_is_a_share(confidence):
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        wilson_interval(1, 2, confidence)
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        mean_interval([0.0, 1.0], confidence)
