"""Preconditioning, loss and samplers against closed forms of Gaussian data."""

import math

import pytest
import torch
from torch import nn

from eval.generative.edm import Preconditioned, edm_loss, log_normal_sigma, noise_levels, sample_heun


class Constant(nn.Module):
    """A network that gives its input times a factor, and remembers what it was given."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, y, time):
        self.given = (y, time)
        return self.factor * y


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_preconditioning_is_table_1_of_the_paper(sigma_data):
    network = Constant(0.7)
    y = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    sigma = torch.tensor([0.3, 2.0])
    found = Preconditioned(network, sigma_data)(y, sigma)
    for row in range(2):
        s = sigma[row].item()
        total = s**2 + sigma_data**2
        c_skip, c_out, c_in = sigma_data**2 / total, s * sigma_data / math.sqrt(total), 1 / math.sqrt(total)
        torch.testing.assert_close(network.given[0][row], c_in * y[row])
        assert network.given[1][row].item() == pytest.approx(math.log(s) / 4)
        torch.testing.assert_close(found[row], c_skip * y[row] + c_out * 0.7 * c_in * y[row])


def test_the_weighted_loss_is_the_plain_error_of_the_network():
    # The weight is 1 / c_out^2, so the loss is |F - (x - c_skip y) / c_out|^2 per entry.
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(5, 3, generator=generator), torch.randn(5, 3, generator=generator)
    sigma = torch.linspace(0.1, 4.0, 5)
    denoise = Preconditioned(Constant(-0.4), 0.5)
    y = x + sigma[:, None] * noise
    total = sigma**2 + 0.25
    c_skip, c_out = (0.25 / total)[:, None], (sigma * 0.5 / total.sqrt())[:, None]
    target = (x - c_skip * y) / c_out
    expected = (-0.4 * y / total.sqrt()[:, None] - target).square().mean(dim=1)
    torch.testing.assert_close(edm_loss(denoise, x, sigma, noise, 0.5), expected)


def test_an_untrained_network_has_loss_one_at_every_level():
    # With F = 0 the error is c_out^2 per entry when the data have variance sigma_data^2.
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(2, (4000, 8), generator=generator) * 2.0 - 1
    for level in (0.05, 1.0, 20.0):
        sigma = torch.full((4000,), level)
        loss = edm_loss(Preconditioned(Constant(0.0)), x, sigma, torch.randn(x.shape, generator=generator), 1.0)
        assert loss.mean().item() == pytest.approx(1.0, abs=0.03)


def test_training_noise_is_log_normal():
    log_sigma = log_normal_sigma(20000, -0.3, 0.8, torch.Generator().manual_seed(0)).log()
    assert log_sigma.mean().item() == pytest.approx(-0.3, abs=4 * 0.8 / math.sqrt(20000))
    assert log_sigma.std().item() == pytest.approx(0.8, abs=0.02)


def test_noise_levels_fall_from_the_largest_to_the_smallest_and_zero():
    levels = noise_levels(18)
    assert len(levels) == 19
    assert levels[0] == pytest.approx(80.0) and levels[-2] == pytest.approx(0.002) and levels[-1] == 0.0
    assert all(high > low for high, low in zip(levels, levels[1:], strict=False))
    # Equal steps of the seventh root.
    roots = [level ** (1 / 7) for level in levels[:-1]]
    gaps = [high - low for high, low in zip(roots, roots[1:], strict=False)]
    assert max(gaps) == pytest.approx(min(gaps))
    assert noise_levels(1) == [pytest.approx(80.0), 0.0]


def gaussian(mean, variances):
    """The exact denoiser of independent normal entries."""

    def denoise(y, sigma):
        share = variances / (variances + sigma[:, None] ** 2)
        return mean + share * (y - mean)

    return denoise


def test_the_deterministic_sampler_solves_the_gaussian_flow():
    # The flow maps y at level s to mean + (y - mean) * sqrt(v / (v + s^2)).
    mean, variances = torch.tensor([1.0, -2.0, 0.0]).double(), torch.tensor([1.0, 0.25, 4.0]).double()
    noise = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    expected = mean + (80.0 * noise - mean) * torch.sqrt(variances / (variances + 80.0**2))

    def error(steps):
        return (sample_heun(gaussian(mean, variances), noise, noise_levels(steps)) - expected).abs().max().item()

    # Second order: four times the steps, about 16 times the accuracy.
    assert error(288) < 0.002
    assert error(72) / error(288) == pytest.approx(16, rel=0.1)


@pytest.mark.parametrize("churn", [0.0, 20.0, 60.0])
def test_samples_have_the_covariance_of_the_data(churn):
    mean, variances = torch.tensor([1.0, -2.0]), torch.tensor([1.0, 0.09])
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(40000, 2, generator=generator)
    samples = sample_heun(gaussian(mean, variances), noise, noise_levels(160), churn=churn, generator=generator)
    # Four standard errors of a mean and of a variance from 40,000 samples are 2 % and 2.8 %.
    torch.testing.assert_close(samples.mean(dim=0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(samples.var(dim=0), variances, atol=0, rtol=0.03)
    covariance = (samples - mean).prod(dim=1).mean().item()
    assert abs(covariance) < 4 * 0.3 / math.sqrt(40000)


def test_calls_and_determinism():
    calls = []

    def denoise(y, sigma):
        calls.append(sigma[0].item())
        return torch.zeros_like(y)

    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    first = sample_heun(denoise, noise, noise_levels(5))
    assert len(calls) == 9
    assert torch.equal(first, sample_heun(denoise, noise, noise_levels(5)))
    # A denoiser that always says 0 shrinks every sample to 0.
    torch.testing.assert_close(first, torch.zeros(2, 3))
