"""Masked discrete diffusion (Sahoo et al., arXiv:2406.07524; Shi et al., arXiv:2406.04329).

At time t in (0, 1] each symbol is masked by itself with probability t (the linear schedule). A bidirectional network
predicts the masked symbols; the evidence bound weighs their cross-entropy by 1 / t.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from eval.rules.base import Rule


class MaskedDiffusion(nn.Module):
    """Called with a batch and its masks, gives the bound on -ln p of every string, in nats per symbol.

    network: float [B, n * (vocabulary + 1)] (one-hot, the last channel is the mask) and time float [B] -> logits float
    [B, n * vocabulary].
    """

    def __init__(self, network: nn.Module, rule: Rule, sampler_steps: int):
        super().__init__()
        self.network = network
        self.positions = rule.positions
        self.vocabulary = rule.vocabulary
        self.steps = sampler_steps
        self.rows_per_sample = sampler_steps

    def corrupt(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Times float [count], spread evenly over (0, 1], and which symbols are masked, bool [count, n]."""
        offset = torch.rand(1, generator=generator)
        times = 1 - (torch.arange(count) / count + offset) % 1
        times = times[torch.randperm(count, generator=generator)]
        masked = torch.rand(count, self.positions, generator=generator) < times[:, None]
        return times, masked

    def forward(self, strings: Tensor, times: Tensor, masked: Tensor) -> Tensor:
        """float [B]: the loss of integer strings [B, n]."""
        strings = strings.long()
        loss = cross_entropy(self.logits(strings, masked, times).transpose(1, 2), strings, reduction="none")
        return (loss * masked).sum(dim=1) / times / self.positions

    def logits(self, strings: Tensor, masked: Tensor, times: Tensor) -> Tensor:
        """float32 [B, n, vocabulary]; masked symbols of `strings` are not looked at."""
        tokens = one_hot(strings.masked_fill(masked, self.vocabulary), self.vocabulary + 1)
        output = self.network(tokens.float().flatten(1), times)
        return output.float().unflatten(1, (self.positions, self.vocabulary))

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> tuple[np.ndarray, None]:
        """Strings, int8 [count, n]: from all masked, each step reveals a mask with probability 1 / (steps left)."""
        device = next(self.parameters()).device
        strings = torch.zeros(count, self.positions, dtype=torch.long, device=device)
        masked = torch.ones_like(strings, dtype=torch.bool)
        for step in range(self.steps):
            times = torch.full((count,), 1 - step / self.steps, device=device)
            drawn = draw(self.logits(strings, masked, times), generator)
            reveal = torch.rand(strings.shape, generator=generator).to(device) < 1 / (self.steps - step)
            strings = torch.where(masked & reveal, drawn, strings)
            masked &= ~reveal
        return strings.to(torch.int8).cpu().numpy(), None


def draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """int64 [...]: one symbol from the softmax over the last axis of `logits` [..., vocabulary].

    Random numbers come from `generator`, on the CPU, so that every device draws the same ones.
    """
    cumulative = torch.softmax(logits.double(), dim=-1).cumsum(-1)
    threshold = torch.rand(logits.shape[:-1], generator=generator, dtype=torch.float64)
    beyond = threshold.to(logits.device)[..., None] > cumulative[..., :-1]
    return beyond.sum(-1)
