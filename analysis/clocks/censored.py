"""Regression and order of times that are partly only known to lie beyond the end of a run (right-censored)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist

import numpy as np
from scipy.special import log_ndtr

from analysis.criteria import CONFIDENCE


# Spread of the residuals, in units of the response, below which the observed points count as lying on the line.
SMALLEST_SPREAD = 1e-4
LOG_ROOT = math.log(2 * math.pi) / 2


@dataclass(frozen=True)
class Line:
    """A linear fit with normal residuals to partly censored responses.

    coefficients: of the columns of the design, intercept first. errors: their standard errors, from the curvature of
    the likelihood; None where the observed points lie on the line, which leaves no residual to judge by.
    spread: standard deviation of the residuals, maximum likelihood (divided by n, not n - p).
    """

    coefficients: tuple[float, ...]
    errors: tuple[float, ...] | None
    spread: float
    observed: int
    censored: int

    def interval(self, column: int, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
        """Wald interval of one coefficient."""
        if self.errors is None:
            return None
        half = NormalDist().inv_cdf((1 + confidence) / 2) * self.errors[column]
        return self.coefficients[column] - half, self.coefficients[column] + half


def concordance(low: Sequence[tuple[float, float]], high: Sequence[tuple[float, float]]) -> tuple[int, int]:
    """(pairs in order, comparable pairs) of one value from `low` and one from `high`, in order if low's is smaller.

    Harrell's concordance index (1982, JAMA 247:2543-2546) between two groups of values, known by (least, largest): a
    pair is comparable if these leave one order alone. Equal values are comparable and not in order.
    """
    pairs = list(product(low, high))
    ordered = sum(a_most < b_least for (_, a_most), (b_least, _) in pairs)
    return ordered, ordered + sum(b_most <= a_least for (a_least, _), (_, b_most) in pairs)


def censored_fit(
    design: Sequence[Sequence[float]], response: Sequence[float], observed: Sequence[bool]
) -> Line | None:
    """Maximum likelihood of response = design @ coefficients + normal noise, with right-censored responses (Tobit).

    Tobin 1958, Econometrica 26:24-36, in Olsen's parameters (1978, Econometrica 46:1211-1215) gamma = coefficients /
    spread and theta = 1 / spread, in which the log-likelihood

        sum_observed log theta - (theta y - x gamma)^2 / 2  +  sum_censored log Phi(x gamma - theta c)

    is concave, so that Newton's method finds its one maximum.

    design: a row per run, its first column 1. observed[i] False says that the response lies beyond response[i].
    None if the observed rows do not determine the coefficients (too few, or all at the same place).
    """
    x, y = np.asarray(design, dtype=np.float64), np.asarray(response, dtype=np.float64)
    seen = np.asarray(observed, dtype=bool)
    count, columns = int(seen.sum()), x.shape[1]
    if count < columns or np.linalg.matrix_rank(x[seen]) < columns:
        return None
    # Rows whose product with (gamma, theta) is the standardised residual, and its negative for censored ones.
    residual_rows = np.column_stack([-x[seen], y[seen]])
    censored_rows = np.column_stack([x[~seen], -y[~seen]])
    start = np.linalg.lstsq(x[seen], y[seen], rcond=None)[0]
    spread = max(0.1, float(np.sqrt(np.mean((y[seen] - x[seen] @ start) ** 2))))
    parameters = np.append(start, 1.0) / spread

    def likelihood(p: np.ndarray) -> float:
        if p[-1] <= 0:
            return -math.inf
        return count * math.log(p[-1]) - np.sum((residual_rows @ p) ** 2) / 2 + log_ndtr(censored_rows @ p).sum()

    for _ in range(100):
        z = censored_rows @ parameters
        mills = np.exp(-(z**2) / 2 - LOG_ROOT - log_ndtr(z))
        gradient = censored_rows.T @ mills - residual_rows.T @ (residual_rows @ parameters)
        gradient[-1] += count / parameters[-1]
        hessian = -(censored_rows.T * (mills * (z + mills))) @ censored_rows - residual_rows.T @ residual_rows
        hessian[-1, -1] -= count / parameters[-1] ** 2
        step = np.linalg.solve(hessian, -gradient)
        # Half of this is what the step would gain if the likelihood were a parabola.
        if gradient @ step < 1e-12 or parameters[-1] > 1 / SMALLEST_SPREAD:
            break
        size, current = 1.0, likelihood(parameters)
        while likelihood(parameters + size * step) < current and size > 1e-4:
            size /= 2
        parameters = parameters + size * step
    gamma, theta = parameters[:-1], float(parameters[-1])
    exact = theta > 1 / SMALLEST_SPREAD
    # Standard errors of gamma / theta by the delta method from the inverse of the observed information.
    transform = np.column_stack([np.eye(columns) / theta, -gamma / theta**2])
    errors = np.sqrt(np.clip(np.diag(transform @ np.linalg.inv(-hessian) @ transform.T), 0, None))
    return Line(
        coefficients=tuple((gamma / theta).tolist()),
        errors=None if exact or count == columns else tuple(errors.tolist()),
        spread=0.0 if exact else 1 / theta,
        observed=count,
        censored=len(y) - count,
    )
