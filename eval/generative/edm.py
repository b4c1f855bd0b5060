"""Diffusion in the parametrisation of Karras et al., "Elucidating the Design Space of Diffusion-Based Generative
Models" (arXiv:2206.00364, "EDM"): preconditioning, training loss and samplers.

Data are vectors x [D]; a noisy one is y = x + sigma z with z standard normal. `sigma_data` is the standard deviation
of the data's entries that the preconditioning assumes: 1 for bits as -1 and +1.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Preconditioned(nn.Module):
    """D(y; sigma) = c_skip y + c_out F(c_in y; c_noise), with F a plain network (EDM, eq. 7 and table 1).

    `network` takes float [B, D] and c_noise float [B], and gives float [B, D]. The sum is made in float32 whatever
    precision the network runs in.
    """

    def __init__(self, network: nn.Module, sigma_data: float = 1.0):
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data

    def forward(self, y: Tensor, sigma: Tensor) -> Tensor:
        """x_hat, float [B, D], for y float [B, D] and sigma float [B]."""
        data = self.sigma_data
        sigma = sigma[:, None]
        total = torch.sqrt(sigma**2 + data**2)
        output = self.network(y / total, sigma[:, 0].log() / 4)
        return (data / total) ** 2 * y + sigma * data / total * output.float()


def log_normal_sigma(count: int, p_mean: float, p_std: float, generator: torch.Generator) -> Tensor:
    """float32 [count]: noise levels of a training batch, ln sigma ~ N(p_mean, p_std^2)."""
    return torch.exp(p_mean + p_std * torch.randn(count, generator=generator))


def edm_loss(
    denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor, noise: Tensor, sigma_data: float
) -> Tensor:
    """float [B]: the squared error per entry, weighted by 1 / c_out^2 (EDM, eq. 2 and table 1)."""
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    return weight * (denoise(x + sigma[:, None] * noise, sigma) - x).square().mean(dim=1)


def noise_levels(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> list[float]:
    """`steps` falling noise levels and a final 0 (EDM, eq. 5)."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    levels = [(high + i / max(1, steps - 1) * (low - high)) ** rho for i in range(steps)]
    return [*levels, 0.0]


@torch.no_grad()
def sample_heun(
    denoise: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    levels: list[float],
    churn: float = 0.0,
    churn_noise: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Samples, float [M, D], by Heun's method along falling noise `levels` that end with 0 (EDM, algorithm 2).

    noise: standard normal [M, D]; the start is levels[0] * noise, so that a fixed `noise` follows the same samples
    through training. churn: 0 is the deterministic probability-flow ODE (algorithm 1); above 0, each step first raises
    the noise level by the factor 1 + min(churn / steps, sqrt(2) - 1), with fresh noise of standard deviation
    `churn_noise` from `generator`, which must then be given. Calls `denoise` 2 * (len(levels) - 1) - 1 times.
    """
    steps = len(levels) - 1
    raised = 1 + min(churn / steps, math.sqrt(2) - 1)
    y = levels[0] * noise

    def slope(y: Tensor, sigma: float) -> Tensor:
        return (y - denoise(y, torch.full_like(y[:, 0], sigma))) / sigma

    for sigma, following in zip(levels, levels[1:], strict=False):
        if churn > 0:
            fresh = torch.randn(y.shape, generator=generator).to(y)
            y = y + math.sqrt((raised * sigma) ** 2 - sigma**2) * churn_noise * fresh
            sigma = raised * sigma
        first = slope(y, sigma)
        ahead = y + (following - sigma) * first
        if following > 0:
            ahead = y + (following - sigma) * (first + slope(ahead, following)) / 2
        y = ahead
    return y
