import math

import numpy as np
import pytest
import torch

from analysis.clocks.censored import censored_fit, concordance, log_normal, median_time


def test_median_without_censoring_is_the_median():
    assert median_time([5.0, 1.0, 3.0], [True] * 3) == 3.0
    assert median_time([2.0, 8.0], [True] * 2) == pytest.approx(4.0)
    assert median_time([7.0], [True]) == 7.0


def test_median_of_censored_times_is_kaplan_and_meiers():
    # Survival: 4/5 after 1; 2 leaves the set of those at risk; 4/5 * 2/3 = 8/15 after 3; 4/15 after 4.
    assert median_time([1, 2, 3, 4, 9], [True, False, True, True, False]) == 4
    assert median_time([1, 9, 9], [True, False, False]) is None
    assert median_time([1, 9], [True, False]) == 1
    # Censored at the time of an event counts as later: 2/3, then 1/3.
    assert median_time([5, 5, 6], [True, False, True]) == 6
    with pytest.raises(ValueError, match="no times"):
        median_time([], [])


def test_concordance_counts_only_pairs_of_known_order():
    seen, cut = True, False
    assert concordance([1, 5], [3], [seen, seen], [seen]) == (1, 2)
    assert concordance([2], [3], [seen], [cut]) == (1, 1)
    assert concordance([2], [1], [seen], [cut]) == (0, 0)
    assert concordance([4], [3], [cut], [seen]) == (0, 1)
    assert concordance([4], [9], [cut], [cut]) == (0, 0)
    assert concordance([3], [3], [seen], [seen]) == (0, 1)


def test_uncensored_fit_is_least_squares():
    generator = torch.Generator().manual_seed(0)
    x = torch.linspace(0, 3, 12, dtype=torch.float64)
    y = 1.5 + 0.7 * x + 0.2 * torch.randn(12, generator=generator, dtype=torch.float64)
    design = torch.stack([torch.ones_like(x), x], 1)
    least_squares = torch.linalg.lstsq(design, y[:, None]).solution[:, 0]
    residual = y - design @ least_squares
    spread = residual.square().mean().sqrt()

    line = censored_fit(design.tolist(), y.tolist(), [True] * 12)

    assert line.coefficients == pytest.approx(least_squares.tolist(), abs=1e-8)
    assert line.spread == pytest.approx(spread.item(), abs=1e-8)
    covariance = spread**2 * torch.linalg.inv(design.T @ design)
    assert line.errors == pytest.approx(covariance.diagonal().sqrt().tolist(), rel=1e-6)
    low, high = line.interval(1)
    assert (low + high) / 2 == pytest.approx(line.coefficients[1]) and high - low == pytest.approx(
        2 * 1.959964 * line.errors[1], rel=1e-5
    )
    assert (line.observed, line.censored) == (12, 0)


def test_censored_fit_has_no_bias_where_dropping_and_replacing_have():
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(4000, generator=generator, dtype=torch.float64)
    y = 1.0 + 2.0 * x + 0.5 * torch.randn(4000, generator=generator, dtype=torch.float64)
    horizon = 2.2
    observed = y < horizon
    design = torch.stack([torch.ones_like(x), x], 1)

    line = censored_fit(design.tolist(), y.clamp(max=horizon).tolist(), observed.tolist())

    assert line.censored > 1000
    for value, error, truth in zip(line.coefficients, line.errors, (1.0, 2.0), strict=True):
        assert abs(value - truth) < 3 * error < 0.12
    assert line.spread == pytest.approx(0.5, abs=0.03)
    for rows, response in ((observed, y), (observed | ~observed, y.clamp(max=horizon))):
        slope = torch.linalg.lstsq(design[rows], response[rows, None]).solution[1].item()
        assert slope < 1.6


def test_the_fit_is_the_maximum_of_the_likelihood():
    x, y, seen = [0.0, 0.0, 1.0, 1.0, 2.0, 2.0], [1.0, 1.2, 1.9, 2.4, 2.6, 2.6], [1, 1, 1, 1, 1, 0]
    line = censored_fit([[1.0, value] for value in x], y, [bool(value) for value in seen])

    def likelihood(a, b, s):
        total = 0.0
        for position, value, observed in zip(x, y, seen, strict=True):
            z = (value - a - b * position) / s
            total += -math.log(s) - z * z / 2 if observed else math.log(math.erfc(z / math.sqrt(2)) / 2)
        return total

    a, b = line.coefficients
    best = likelihood(a, b, line.spread)
    for move in ((1e-3, 0, 0), (-1e-3, 0, 0), (0, 1e-3, 0), (0, -1e-3, 0), (0, 0, 1e-3), (0, 0, -1e-3)):
        assert likelihood(a + move[0], b + move[1], line.spread + move[2]) < best


def test_points_on_a_line_and_too_few_points():
    line = censored_fit([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]], [2.0, 4.0, 6.0], [True] * 3)
    assert line.coefficients == pytest.approx([0.0, 2.0], abs=1e-3) and line.errors is None and line.spread == 0
    assert line.interval(1) is None
    assert censored_fit([[1.0, 1.0], [1.0, 2.0]], [2.0, 4.0], [True, False]) is None
    assert censored_fit([[1.0, 1.0], [1.0, 1.0], [1.0, 2.0]], [2.0, 4.0, 5.0], [True, True, False]) is None


def test_log_normal_in_both_tails():
    z = np.array([-300.0, -35.001, -34.999, -12.0, -5.0, 0.0, 3.0, 40.0])
    assert log_normal(z) == pytest.approx(torch.special.log_ndtr(torch.tensor(z)).numpy(), rel=1e-9, abs=1e-15)
