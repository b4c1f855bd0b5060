"""One member of the population: the centre plus sigma times its noise."""

import math
from dataclasses import dataclass

import torch

from eval.rollout.base import Kind
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


@dataclass(frozen=True)
class LowRankSeededMember(SeededMember):
    """The same with noise of a low rank, or of few parameters (see `eval.rollout.base.LowRankMember`)."""

    @property
    def rank(self) -> int:
        return self.noise.rank

    def kind(self, name: str, weight: torch.Tensor) -> Kind:
        return self.noise.kind(name, weight)

    def factors(self, name: str, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = self.noise.factors(self.seed, name, weight)
        return a * (self.sign * self.sigma / math.sqrt(self.rank)), b


def seeded_member(index: int, seed: int, sign: int, sigma: float, noise: Noise) -> SeededMember:
    """The member of these numbers, of the kind that the noise calls for."""
    kind = LowRankSeededMember if noise.rank or noise.only is not None else SeededMember
    return kind(index, seed, sign, sigma, noise)
