"""The same steps of evolution strategies made in every precision at once, on one tensor after the other.

Only weights are needed, no completions: the fitness is noise, so that what is seen is the arithmetic of the update.
"""

from dataclasses import dataclass

import numpy as np
import torch

from trainers.es.bfloat16 import ROUNDED, apply_rounded_update
from trainers.es.noise import Noise, member_seed
from trainers.es.shaping import shape


WITHOUT_UPDATE = "walk"


@dataclass(frozen=True)
class Steps:
    """Some steps of evolution strategies: those of arXiv 2604.01499's released configuration unless given otherwise.

    engines: the members go to them in turn; the first keeps its rounding errors (see `trainers.es.bfloat16`).
    """

    steps: int = 100
    members: int = 30
    sigma: float = 1e-3
    alpha: float = 5e-4
    engines: int = 3
    seed: int = 0
    shared_noise: bool = False

    def seeds(self, step: int) -> list[int]:
        return [member_seed(self.seed, step, member) for member in range(self.members)]

    def coefficients(self, step: int) -> list[float]:
        """alpha / N * z_i of members whose fitness is noise."""
        fitness = np.random.default_rng([self.seed, step]).standard_normal(self.members)
        return (self.alpha / self.members * shape(fitness, "zscore")).tolist()


@torch.no_grad()
def round_in_every_way(name: str, weight: torch.Tensor, settings: Steps) -> dict[str, torch.Tensor]:
    """The weight after all steps, by way: the modes of `trainers.es.bfloat16`, and `WITHOUT_UPDATE`.

    name: Hugging Face parameter name, which addresses the noise. weight: float32 with bfloat16 values; left as it is.
    `WITHOUT_UPDATE` is the released loop with members perturbed and restored but no update made. Takes the memory of
    a step's noise, `members` times the tensor.
    """
    rounded = {way: weight.clone() for way in ("fp32_master", *ROUNDED, WITHOUT_UPDATE)}
    noise = _StepNoise(settings.shared_noise)
    for step in range(settings.steps):
        noise.forget()
        seeds, coefficients = settings.seeds(step), settings.coefficients(step)
        walked = [(seed, 1) for seed in seeds[:: settings.engines]]
        total = torch.zeros_like(weight)
        for seed, coefficient in zip(seeds, coefficients, strict=True):
            total.add_(noise.draw(seed, name, weight), alpha=coefficient)
        rounded["fp32_master"].add_(total)
        for way in (*ROUNDED, WITHOUT_UPDATE):
            mode, weights_of = ("released", [0.0] * len(seeds)) if way == WITHOUT_UPDATE else (way, coefficients)
            apply_rounded_update(
                {name: rounded[way]},
                mode,
                seeds,
                weights_of,
                noise,
                rounding_seed=seeds[0],
                walked=walked,
                sigma=settings.sigma,
            )
    return rounded


class _StepNoise(Noise):
    """Noise that remembers what it has drawn of one tensor in one step, because every way asks for the same."""

    def __init__(self, shared: bool):
        super().__init__(shared)
        self._drawn: dict[int, torch.Tensor] = {}

    def forget(self) -> None:
        self._drawn.clear()

    def draw(self, member_seed: int, name: str, weight: torch.Tensor) -> torch.Tensor:
        if member_seed not in self._drawn:
            self._drawn[member_seed] = super().draw(member_seed, name, weight)
        return self._drawn[member_seed]
