"""A continuous denoiser of a rule's strings, as training and evaluation use it: corrupt, loss, sample."""

import numpy as np
import torch
from torch import Tensor, nn

from eval.generative.edm import Preconditioned, edm_loss, log_normal_sigma, noise_levels, sample_heun
from eval.rules.base import Rule
from eval.rules.encoding import decode, encode


class EDMDenoiser(nn.Module):
    """A network with EDM's preconditioning; called with a batch and its noise, it gives the loss of every string.

    Symbols are diffused as numbers (eval/rules/encoding.py) and read off by sign or argmax.
    """

    def __init__(
        self,
        network: nn.Module,
        rule: Rule,
        sigma_data: float,
        p_mean: float,
        p_std: float,
        sampler_steps: int,
        sigma_min: float,
        sigma_max: float,
        rho: float,
        churn: float,
        churn_noise: float,
    ):
        super().__init__()
        self.denoise = Preconditioned(network, sigma_data)
        self.dimension = rule.dimension
        self.vocabulary = rule.vocabulary
        self.p_mean, self.p_std = p_mean, p_std
        self.levels = noise_levels(sampler_steps, sigma_min, sigma_max, rho)
        self.churn, self.churn_noise = churn, churn_noise
        # Rows that pass through the network for one sampled string.
        self.rows_per_sample = 2 * sampler_steps - 1

    @property
    def network(self) -> nn.Module:
        """The only part with weights."""
        return self.denoise.network

    def corrupt(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """What a batch of `count` strings is corrupted with: sigma float [count] and noise float [count, D]."""
        sigma = log_normal_sigma(count, self.p_mean, self.p_std, generator)
        return sigma, torch.randn(count, self.dimension, generator=generator)

    def forward(self, strings: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        """float [B]: the loss of integer strings [B, n]."""
        x = encode(strings, self.vocabulary)
        return edm_loss(self.denoise, x, sigma, noise, self.denoise.sigma_data)

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> tuple[np.ndarray, Tensor]:
        """Strings, int8 [count, n], and the vectors they were read off, float [count, D]."""
        noise = torch.randn(count, self.dimension, generator=generator)
        device = next(self.parameters()).device
        vectors = sample_heun(self.denoise, noise.to(device), self.levels, self.churn, self.churn_noise, generator)
        return decode(vectors, self.vocabulary), vectors
