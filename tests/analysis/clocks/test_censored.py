import math

import pytest
import torch

from analysis.clocks.censored import censored_fit, concordance
from analysis.clocks.striking import Crossing


def test_concordance_counts_only_pairs_of_known_order():
    def struck(time):
        return Crossing(time, 0).bounds

    def cut(time):
        return Crossing(None, time).bounds

    assert concordance([struck(1), struck(5)], [struck(3)]) == (1, 2)
    assert concordance([struck(2)], [cut(3)]) == (1, 1)
    assert concordance([struck(3)], [cut(3)]) == (1, 1)
    assert concordance([struck(2)], [cut(1)]) == (0, 0)
    assert concordance([cut(4)], [struck(3)]) == (0, 1)
    assert concordance([cut(3)], [struck(3)]) == (0, 1)
    assert concordance([cut(4)], [cut(9)]) == (0, 0)
    assert concordance([struck(3)], [struck(3)]) == (0, 1)


# Hours until motorettes failed, by temperature in degrees Celsius, and hours at which the others were still running.
MOTORETTES = {
    150: ([], [8064] * 10),
    170: ([1764, 2772, 3444, 3542, 3780, 4860, 5196], [5448] * 3),
    190: ([408, 408, 1344, 1344, 1440], [1680] * 5),
    220: ([408, 408, 504, 504, 504], [528] * 5),
}


def test_the_published_fit_of_the_motorettes():
    """Maximum likelihood of Schmee and Hahn 1979, Technometrics 21:417-432: log10 of hours against 1000 / kelvin."""
    rows = [
        (1000 / (celsius + 273.2), math.log10(hours), failed)
        for celsius, (failures, running) in MOTORETTES.items()
        for times, failed in ((failures, True), (running, False))
        for hours in times
    ]
    line = censored_fit([[1.0, x] for x, _, _ in rows], [y for _, y, _ in rows], [failed for *_, failed in rows])
    assert line.coefficients == pytest.approx((-6.019, 4.311), abs=6e-4) and line.spread == pytest.approx(
        0.2592, abs=6e-5
    )
    assert (line.observed, line.censored) == (17, 23)


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
