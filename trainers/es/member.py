"""One member of the population: the centre plus sigma times its noise."""

from dataclasses import dataclass

import torch

from trainers.es.noise import Noise


@dataclass(frozen=True)
class SeededMember:
    """An overlay (see `eval.rollout.base.Member`) made from a seed: theta + sign * sigma * epsilon(seed)."""

    index: int
    seed: int
    sign: int
    sigma: float
    noise: Noise

    def delta(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        return self.noise.draw(self.seed, name, weight).mul_(self.sign * self.sigma)
