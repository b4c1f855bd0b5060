"""How fast a denoiser learns the directions of Gaussian data: closed forms, and the same measured on a model.

The closed forms are those of "An analytical theory of spectral bias in the learning dynamics of diffusion models"
(arXiv 2503.03206). Data have mean 0 and covariance Sigma = sum_k lambda_k u_k u_k^T; a linear denoiser D(y) = W y sees
y = x + sigma z and is trained at one sigma by gradient flow of rate eta for a time tau on E ||D(y) - x||^2. After
k gradient steps of size eta the time is eta * tau = eta * k. Everything is per mode: psi = u_k^T W u_k, with
`start` = psi at time 0. All arguments may be floats; `eta_tau` is the product of rate and time.
"""

import math
from collections.abc import Callable, Sequence

import torch


Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

EULER = 0.5772156649015329


def optimal_gain(variance: float, sigma: float) -> float:
    """lambda / (lambda + sigma^2): psi of the best denoiser (Wiener)."""
    return variance / (variance + sigma**2)


def loss_floor(variances: Sequence[float], sigma: float) -> float:
    """sigma^2 Tr[Sigma (Sigma + sigma^2)^-1]: the smallest E ||D(x + sigma z) - x||^2 of any denoiser."""
    return sum(sigma**2 * optimal_gain(variance, sigma) for variance in variances)


def one_layer_gain(variance: float, sigma: float, eta_tau: float, start: float = 0.0) -> float:
    """psi of D(y) = W y: it nears the optimum at the rate 2 eta (lambda + sigma^2)."""
    optimum = optimal_gain(variance, sigma)
    return optimum + (start - optimum) * math.exp(-2 * eta_tau * (variance + sigma**2))


def preconditioned_gain(variance: float, sigma: float, eta_tau: float, sigma_data: float) -> float:
    """psi of D(y) = c_skip y + c_out A c_in y with A from 0 and loss weight 1 / c_out^2 (EDM, arXiv 2206.00364).

    The gradient of A sees the input c_in y, whose variance is c_in^2 (lambda + sigma^2), so that the rate is
    2 eta c_in^2 (lambda + sigma^2) and the start is c_skip.
    """
    total = sigma_data**2 + sigma**2
    optimum = optimal_gain(variance, sigma)
    return optimum + (sigma_data**2 / total - optimum) * math.exp(-2 * eta_tau * (variance + sigma**2) / total)


def two_layer_gain(variance: float, sigma: float, eta_tau: float, start: float) -> float:
    """psi of D(y) = P P^T y with P aligned with the modes at the start: logistic growth at the rate 8 eta lambda."""
    optimum = optimal_gain(variance, sigma)
    return optimum * start / ((optimum - start) * math.exp(-8 * eta_tau * variance) + start)


def harmonic_emergence_time(variance: float) -> float:
    """eta tau at which `two_layer_gain` reaches the harmonic mean of its start and its optimum: ln 2 / (8 lambda)."""
    return math.log(2) / (8 * variance)


def exponential_integral(x: float) -> float:
    """Ei(x) of a negative x, to about 1e-13.

    -E1(-x): by its power series near 0 (Abramowitz and Stegun 5.1.11), further off by the continued fraction 5.1.22
    with the modified Lentz algorithm. Raises ValueError for x >= 0.
    """
    if x >= 0:
        raise ValueError(f"Ei is wanted at {x}; only negative arguments occur here")
    z = -x
    if z < 1.5:
        term, total = 1.0, 0.0
        for k in range(1, 60):
            term *= x / k
            total += term / k
        return EULER + math.log(z) + total
    b, c = z + 1, 1e300
    d = 1 / b
    fraction = d
    for k in range(1, 200):
        a = -k * k
        b += 2
        d = 1 / (a * d + b)
        c = b + a / c
        fraction *= c * d
        if abs(c * d - 1) < 1e-16:
            break
    return -fraction * math.exp(-z)


def generated_variance(
    variance: float, sigma_start: float, sigma_end: float, eta_tau: float, start: float = 0.0
) -> float:
    """Variance of a mode sampled by the probability-flow ODE with `one_layer_gain` at every sigma (Prop. 4.2).

    The ODE dx / dsigma = (1 - psi(sigma)) x / sigma scales a mode by Phi(sigma_end) / Phi(sigma_start) with

        Phi(sigma) = sqrt(lambda + sigma^2) exp[(1 - Q) / 2 Ei(-2 eta tau sigma^2) exp(-2 eta tau lambda)
                                                - Ei(-2 eta tau (sigma^2 + lambda)) / 2]

    from noise of variance sigma_start^2. At eta tau = 0 the gain is Q everywhere and the factor is
    (sigma_end / sigma_start)^(1 - Q).
    """
    if eta_tau == 0:
        return sigma_start**2 * (sigma_end / sigma_start) ** (2 * (1 - start))

    def log_phi(sigma: float) -> float:
        fading = (1 - start) / 2 * exponential_integral(-2 * eta_tau * sigma**2) * math.exp(-2 * eta_tau * variance)
        settled = exponential_integral(-2 * eta_tau * (sigma**2 + variance)) / 2
        return 0.5 * math.log(variance + sigma**2) + fading - settled

    return sigma_start**2 * math.exp(2 * (log_phi(sigma_end) - log_phi(sigma_start)))


def mode_gains(
    denoise: Denoiser,
    covariance: torch.Tensor,
    sigma: float,
    samples: int = 4096,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """psi_k of any denoiser at `sigma`: the slope of u_k . D(y) on u_k . y over Gaussian data, [n], by falling lambda.

    For D(y) = W y this is u_k^T W u_k, exactly as the samples grow; for others it is the best linear description.

    denoise: (y [B, n], sigma [B]) -> [B, n]. covariance: [n, n] of the data, whose mean is 0.
    """
    variances, modes = torch.linalg.eigh(covariance.double())
    variances, modes = variances.flip(0), modes.flip(1)
    normal = torch.randn(2, samples, len(variances), generator=generator, dtype=torch.float64)
    noisy = (normal[0] * variances.clamp(min=0).sqrt()) @ modes.T + sigma * normal[1]
    with torch.no_grad():
        denoised = denoise(noisy.float(), torch.full((samples,), sigma))
    inputs, outputs = noisy @ modes, denoised.double() @ modes
    return (inputs * outputs).sum(0) / inputs.square().sum(0)


def emergence_steps(steps: Sequence[int], gains: Sequence[float], target: float) -> float | None:
    """The step at which a gain passes the harmonic mean of its first value and `target`, linear between evaluations.

    Works for rising and for falling gains; None if it does not pass, or if start or target is not positive.
    """
    start = gains[0]
    if start <= 0 or target <= 0:
        return None
    threshold = 2 * start * target / (start + target)
    sign = 1 if target > start else -1
    for i in range(1, len(steps)):
        if sign * (gains[i] - threshold) >= 0:
            share = (threshold - gains[i - 1]) / (gains[i] - gains[i - 1])
            return steps[i - 1] + share * (steps[i] - steps[i - 1])
    return None


def spectral_report(
    denoisers: dict[int, Denoiser],
    covariance: torch.Tensor,
    sigma: float,
    samples: int = 4096,
    seed: int = 0,
) -> dict:
    """How a denoiser of Gaussian data learned its modes, from its states through training.

    {"sigma", "steps", "variances": lambda_k, largest first, "optimum": psi_k of the best denoiser,
     "gains": [step][mode] psi_k, the same noise at every step,
     "emergence": step of each mode as `emergence_steps` has it, None if it did not emerge,
     "exponent": slope of log emergence against log lambda over the modes that emerged, None for fewer than two}

    One layer gives an exponent between -1 and 0 (rate lambda + sigma^2), two layers -1.

    denoisers: {optimiser step: denoiser}, in the order of training.
    """
    variances = torch.linalg.eigvalsh(covariance.double()).flip(0).tolist()
    optimum = [optimal_gain(variance, sigma) for variance in variances]
    gains = [
        mode_gains(denoise, covariance, sigma, samples, torch.Generator().manual_seed(seed)).tolist()
        for denoise in denoisers.values()
    ]
    steps = list(denoisers)
    emergence = [emergence_steps(steps, [at[k] for at in gains], target) for k, target in enumerate(optimum)]
    return {
        "sigma": sigma,
        "steps": steps,
        "variances": variances,
        "optimum": optimum,
        "gains": gains,
        "emergence": emergence,
        "exponent": _log_slope(variances, emergence),
    }


def _log_slope(variances: Sequence[float], times: Sequence[float | None]) -> float | None:
    points = [(math.log(variance), math.log(time)) for variance, time in zip(variances, times, strict=True) if time]
    if len({x for x, _ in points}) < 2:
        return None
    x_mean = sum(x for x, _ in points) / len(points)
    return sum((x - x_mean) * y for x, y in points) / sum((x - x_mean) ** 2 for x, _ in points)
