import math

import numpy as np
import pytest
import torch
from torch import nn

from analysis.clocks.spectral import (
    emergence_steps,
    exponential_integral,
    generated_variance,
    harmonic_emergence_time,
    loss_floor,
    mode_gains,
    one_layer_gain,
    optimal_gain,
    preconditioned_gain,
    spectral_report,
    two_layer_gain,
)
from eval.generative.edm import Preconditioned, edm_loss, noise_levels, sample_heun


VARIANCES = [4.0, 1.0, 0.3, 0.05]


class Linear(nn.Module):
    """A y, as a network that ignores the noise level; the lab's preconditioning wraps it."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, y, time):
        return y @ self.weight.T


def exact_batch(modes, sigma):
    """Data and noise (x, z), float32 [n * n * 4, n] each, over which means are the exact expectations.

    x takes the values +- sqrt(n lambda_k) u_k and z the values +- sqrt(n) e_j, in all combinations: their second
    moments are those of the data and of the noise, and they are uncorrelated.
    """
    size = len(VARIANCES)
    x = (modes * torch.tensor(VARIANCES, dtype=torch.float64).sqrt()).T * math.sqrt(size)
    z = math.sqrt(size) * torch.eye(size, dtype=torch.float64)
    x, z = torch.cat([x, -x]), torch.cat([z, -z])
    return x.repeat_interleave(len(z), 0).float(), z.repeat(len(x), 1).float()


def covariance(variances=VARIANCES, seed=0):
    """With these eigenvalues and random eigenvectors (the columns of the second result)."""
    generator = torch.Generator().manual_seed(seed)
    size = (len(variances), len(variances))
    modes, _ = torch.linalg.qr(torch.randn(size, generator=generator, dtype=torch.float64))
    return modes @ torch.diag(torch.tensor(variances, dtype=torch.float64)) @ modes.T, modes


def expected_loss(weight, sigma_matrix, sigma):
    """E ||W (x + sigma z) - x||^2."""
    residual = weight - torch.eye(len(weight), dtype=weight.dtype)
    return (residual @ sigma_matrix @ residual.T).trace() + sigma**2 * weight.square().sum()


def test_exponential_integral_against_quadrature():
    for x in (-1e-3, -0.2, -1.0, -1.49, -1.51, -4.0, -30.0):
        # E1(z) = int_0^1 exp(-z / t) / t dt, by Gauss and Legendre in log t.
        nodes, weights = np.polynomial.legendre.leggauss(400)
        u = (nodes + 1) / 2 * 60 - 60
        integral = (weights * 30 * np.exp(x * np.exp(-u))).sum()
        assert exponential_integral(x) == pytest.approx(-integral, rel=1e-9)
    with pytest.raises(ValueError, match="negative"):
        exponential_integral(0.0)


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_one_layer_learning_curve_is_gradient_descents(sigma):
    sigma_matrix, modes = covariance()
    generator = torch.Generator().manual_seed(1)
    weight = (0.3 * torch.randn(4, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    starts = (modes.T @ weight.detach() @ modes).diagonal().tolist()
    rate, steps = 1e-4, 3000
    optimizer = torch.optim.SGD([weight], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        expected_loss(weight, sigma_matrix, sigma).backward()
        optimizer.step()
    gains = (modes.T @ weight.detach() @ modes).diagonal().tolist()
    for gain, variance, start in zip(gains, VARIANCES, starts, strict=True):
        assert gain == pytest.approx(one_layer_gain(variance, sigma, rate * steps, start), abs=1e-3)


@pytest.mark.parametrize("sigma", [0.4, 1.0])
def test_preconditioned_learning_curve_is_that_of_the_labs_own_loss(sigma):
    """The lab's preconditioning and loss, gradient descent on the exact expectation."""
    sigma_matrix, modes = covariance()
    denoise = Preconditioned(Linear(torch.zeros(4, 4)), sigma_data=1.0)
    x, z = exact_batch(modes, sigma)
    levels = torch.full((len(x),), sigma)
    rate, steps = 2e-3, 600
    optimizer = torch.optim.SGD(denoise.parameters(), lr=rate)
    for step in range(steps + 1):
        if step in (0, 100, steps):
            gains = mode_gains(denoise, sigma_matrix, sigma, 64, torch.Generator().manual_seed(0))
            for gain, variance in zip(gains.tolist(), VARIANCES, strict=True):
                # The lab's loss is a mean over the 4 entries of a vector, the theory's is a sum.
                expected = preconditioned_gain(variance, sigma, rate * step / 4, sigma_data=1.0)
                assert gain == pytest.approx(expected, abs=1e-3)
        optimizer.zero_grad()
        edm_loss(denoise, x, levels, z, sigma_data=1.0).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("sigma", [0.4, 1.0])
def test_the_labs_loss_has_the_floor_of_the_optimum(sigma):
    sigma_matrix, modes = covariance()
    x, z = exact_batch(modes, sigma)
    gains = torch.tensor([optimal_gain(variance, sigma) for variance in VARIANCES], dtype=torch.float64)
    weight = (modes @ torch.diag(gains) @ modes.T).float()
    loss = edm_loss(lambda y, s: y @ weight.T, x, torch.full((len(x),), sigma), z, sigma_data=1.0).mean()
    weighting = (sigma**2 + 1) / sigma**2
    assert loss.item() == pytest.approx(weighting * loss_floor(VARIANCES, sigma) / 4, rel=1e-5)


def test_adamw_reaches_the_optimum_too():
    """The trainer's optimiser and noise levels end at the closed form for every level, with one weight per level."""
    sigma_matrix, modes = covariance()
    x, z = exact_batch(modes, 0.7)
    denoise = Preconditioned(Linear(torch.zeros(4, 4)), sigma_data=1.0)
    optimizer = torch.optim.AdamW(denoise.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(600):
        optimizer.zero_grad()
        edm_loss(denoise, x, torch.full((len(x),), 0.7), z, sigma_data=1.0).mean().backward()
        optimizer.step()
    gains = mode_gains(denoise, sigma_matrix, 0.7, 64, torch.Generator().manual_seed(0))
    assert gains.tolist() == pytest.approx([optimal_gain(variance, 0.7) for variance in VARIANCES], abs=1e-3)


def gaussian_denoiser(modes, gain):
    """D(y; sigma) with gains `gain(variance, sigma)` along the modes."""

    def denoise(y, sigma):
        gains = torch.tensor([gain(variance, float(sigma[0])) for variance in VARIANCES], dtype=y.dtype)
        return (y @ modes.to(y.dtype) * gains) @ modes.T.to(y.dtype)

    return denoise


def test_the_labs_sampler_gives_gaussian_data_their_covariance():
    sigma_matrix, modes = covariance()
    # Antithetic and whitened: the noise has exactly unit covariance, so that only the sampler's error is left.
    noise = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.cat([noise, -noise])
    noise = noise @ torch.linalg.inv(torch.linalg.cholesky(noise.T @ noise / len(noise))).T
    samples = sample_heun(gaussian_denoiser(modes, optimal_gain), noise, noise_levels(64))
    found = samples.T @ samples / len(samples)
    assert torch.allclose(
        modes.T @ found @ modes, torch.diag(torch.tensor(VARIANCES, dtype=torch.float64)), rtol=0.02, atol=1e-3
    )
    stochastic = sample_heun(
        gaussian_denoiser(modes, optimal_gain),
        noise,
        noise_levels(128),
        churn=20.0,
        generator=torch.Generator().manual_seed(1),
    )
    variances = (stochastic @ modes).square().mean(0).tolist()
    assert variances == pytest.approx(VARIANCES, rel=0.08)


@pytest.mark.parametrize("eta_tau", [0.02, 0.5])
def test_the_labs_sampler_gives_half_trained_models_the_variance_of_the_closed_form(eta_tau):
    _, modes = covariance()
    start = 0.2
    denoise = gaussian_denoiser(modes, lambda variance, sigma: one_layer_gain(variance, sigma, eta_tau, start))
    levels = noise_levels(200, 0.01, 40.0)
    # Ends at the smallest level in place of 0, as the closed form does.
    samples = sample_heun(denoise, modes.T.clone(), levels[:-1])
    for row, k in zip(samples @ modes, range(4), strict=True):
        expected = generated_variance(VARIANCES[k], 40.0, levels[-2], eta_tau, start)
        assert row[k].item() ** 2 == pytest.approx(expected, rel=0.02)


def test_loss_floor_is_the_loss_of_the_optimum():
    sigma_matrix, modes = covariance()
    for sigma in (0.1, 0.7, 3.0):
        gains = torch.tensor([optimal_gain(variance, sigma) for variance in VARIANCES], dtype=torch.float64)
        best = modes @ torch.diag(gains) @ modes.T
        assert loss_floor(VARIANCES, sigma) == pytest.approx(expected_loss(best, sigma_matrix, sigma).item())
        assert expected_loss(best + 1e-3, sigma_matrix, sigma) > loss_floor(VARIANCES, sigma)


def test_two_layers_emerge_in_inverse_proportion_to_the_variance():
    variances = [8.0, 4.0, 2.0, 1.0, 0.5]
    sigma, rate, start = 0.05, 2e-4, 1e-3
    factor = torch.eye(5, dtype=torch.float64).mul(math.sqrt(start)).requires_grad_()
    optimizer = torch.optim.SGD([factor], lr=rate)
    steps, gains = [0], [[start] * 5]
    sigma_matrix = torch.diag(torch.tensor(variances, dtype=torch.float64))
    for step in range(1, 4001):
        optimizer.zero_grad()
        expected_loss(factor @ factor.T, sigma_matrix, sigma).backward()
        optimizer.step()
        if step % 4 == 0:
            steps.append(step)
            gains.append((factor @ factor.T).detach().diagonal().tolist())
    times = []
    for k, variance in enumerate(variances):
        for at in (200, 500, 1000):
            expected = two_layer_gain(variance, sigma, rate * steps[at], start)
            assert gains[at][k] == pytest.approx(expected, abs=0.02)
        emerged = emergence_steps(steps, [row[k] for row in gains], optimal_gain(variance, sigma))
        assert emerged * rate == pytest.approx(harmonic_emergence_time(variance), rel=0.03)
        times.append(emerged)
    slope = np.polyfit(np.log(variances), np.log(times), 1)[0]
    assert slope == pytest.approx(-1, abs=0.15)


@pytest.mark.parametrize("eta_tau", [0.0, 0.03, 0.5, 20.0])
@pytest.mark.parametrize("variance", [0.2, 1.0, 3.0])
def test_generated_variance_solves_the_probability_flow(eta_tau, variance):
    sigma_start, sigma_end, start = 40.0, 0.01, 0.2
    # d log x / d log sigma = 1 - psi(sigma), by Gauss and Legendre.
    nodes, weights = np.polynomial.legendre.leggauss(2000)
    low, high = math.log(sigma_end), math.log(sigma_start)
    logs = low + (nodes + 1) / 2 * (high - low)
    gains = np.array([one_layer_gain(variance, math.exp(value), eta_tau, start) for value in logs])
    growth = (weights * (1 - gains)).sum() * (high - low) / 2
    expected = sigma_start**2 * math.exp(-2 * growth)
    assert generated_variance(variance, sigma_start, sigma_end, eta_tau, start) == pytest.approx(expected, rel=1e-4)


def test_generated_variance_of_a_finished_model_is_the_data_variance():
    for variance in VARIANCES:
        found = generated_variance(variance, 1000.0, 1e-3, 1e4)
        assert found == pytest.approx(variance + 1e-6, rel=1e-4)


def test_preconditioned_start_and_end():
    assert preconditioned_gain(2.0, 0.5, 0.0, 1.0) == pytest.approx(1 / 1.25)
    assert preconditioned_gain(2.0, 0.5, 1e3, 1.0) == pytest.approx(optimal_gain(2.0, 0.5))
    # Data of the assumed variance need no learning.
    assert preconditioned_gain(1.0, 0.5, 0.7, 1.0) == pytest.approx(optimal_gain(1.0, 0.5))


def test_mode_gains_read_a_linear_denoiser():
    sigma_matrix, modes = covariance()
    wanted = torch.tensor([0.9, 0.5, 0.2, 0.05], dtype=torch.float64)
    weight = (modes @ torch.diag(wanted) @ modes.T).float()
    gains = mode_gains(lambda y, sigma: y @ weight.T, sigma_matrix, 0.5, 64, torch.Generator().manual_seed(0))
    assert gains.tolist() == pytest.approx(wanted.tolist(), abs=1e-5)


def test_spectral_report_finds_the_two_layer_law():
    variances, sigma, start = [8.0, 4.0, 2.0, 1.0], 0.05, 1e-2
    denoisers = {}
    for step in range(0, 2001, 10):
        gains = torch.tensor([two_layer_gain(v, sigma, 5e-4 * step, start) for v in variances])
        denoisers[step] = lambda y, sigma, gains=gains: y * gains
    report = spectral_report(denoisers, torch.diag(torch.tensor(variances)), sigma, samples=256)
    assert report["exponent"] == pytest.approx(-1, abs=0.02)
    assert report["variances"] == pytest.approx(variances)
    for time, variance in zip(report["emergence"], variances, strict=True):
        assert time * 5e-4 == pytest.approx(harmonic_emergence_time(variance), rel=0.03)


def test_emergence_of_falling_and_of_absent_modes():
    assert emergence_steps([0, 10], [0.8, 0.0], 0.2) == pytest.approx(10 * (0.8 - 0.32) / 0.8)
    assert emergence_steps([0, 10], [0.1, 0.12], 0.9) is None
    assert emergence_steps([0, 10], [0.0, 0.9], 0.9) is None
