"""Evolution strategies on bfloat16 weights: where the rounding of the released loop comes from, step by step.

The code released with "Matching Accuracy, Different Geometry" (arXiv 2604.01499) keeps its weights in bfloat16 and
changes them in place: a member is made by adding sigma * epsilon, the weights are restored by subtracting it again,
and the update is one such addition per member. Each operation rounds. The modes below take these roundings away one
after the other; what is left at the end, a float32 master, is how this lab trains unless told otherwise.

    released             all in place in bfloat16: perturb, restore by subtraction, one addition per member
    exact_restore        the same without the error of restoring
    fp32_sum             the update summed in float32, then one addition rounded to bfloat16
    stochastic_rounding  the same, rounded up or down at random so that the expectation is kept
    fp32_master          nothing rounds but the engine's copy
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from eval.tasks.generate import hash64
from trainers.es.noise import Noise


ROUNDED = ("released", "exact_restore", "fp32_sum", "stochastic_rounding")
PRECISIONS = ("fp32_master", *ROUNDED)


@dataclass(frozen=True)
class InPlaceMember:
    """A member of the released loop: perturbed in bfloat16 where the members before it have left the weights.

    earlier: seeds of the members that the same engine has perturbed and restored before in this step; () if restoring
        is exact.
    The other fields are those of `SeededMember`. The weights that it overlays must have bfloat16 values.
    """

    index: int
    seed: int
    sign: int
    sigma: float
    noise: Noise
    earlier: Sequence[Sequence[int]] = ()

    def delta(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        walked = weight.to(torch.bfloat16, copy=True)
        walk(walked, name, self.earlier, self.sigma, self.noise)
        add_rounded(walked, self.noise.draw(self.seed, name, weight), self.sign * self.sigma)
        # Two bfloat16 numbers, so that adding the difference to `weight` gives `walked` again after rounding.
        return walked.float() - weight.float()


def walk(weight: torch.Tensor, name: str, members: Sequence[Sequence[int]], sigma: float, noise: Noise) -> None:
    """Perturb a bfloat16 weight by each (seed, sign) and restore it by subtraction, in place; the error stays."""
    for seed, sign in members:
        drawn = noise.draw(seed, name, weight)
        add_rounded(weight, drawn, sign * sigma)
        add_rounded(weight, drawn, -sign * sigma)


def add_rounded(weight: torch.Tensor, noise: torch.Tensor, scale: float) -> None:
    """weight += scale * noise as bfloat16 arithmetic has it: noise, product and sum are each rounded."""
    weight.add_(noise.to(torch.bfloat16) * scale)


def round_stochastically(values: torch.Tensor, uniform_bits: torch.Tensor) -> torch.Tensor:
    """float32 values to bfloat16, up or down with the probability that keeps the expectation.

    uniform_bits: int32 in [0, 2^16), one per value. A bfloat16 is the upper half of a float32: adding random bits
    below and cutting them off carries into the upper half as often as the lower half says.
    """
    bits = values.contiguous().view(torch.int32)
    return ((bits + uniform_bits) & ~0xFFFF).view(torch.float32).to(torch.bfloat16)


@torch.no_grad()
def apply_rounded_update(
    weights: dict[str, torch.Tensor],
    mode: str,
    seeds: list[int],
    coefficients: list[float],
    noise: Noise,
    *,
    rounding_seed: int = 0,
    walked: Sequence[Sequence[int]] = (),
    sigma: float = 0.0,
) -> float:
    """One update theta <- theta + sum_i coefficient_i * epsilon_i with the roundings of `mode`, in place.

    weights: float32 tensors with bfloat16 values, and so they stay; others are rounded first.
    mode: one of `ROUNDED`.
    rounding_seed: addresses the random bits of stochastic rounding.
    walked: (seed, sign) of the members that were perturbed and restored, at `sigma`, on the very weights that the
        update then goes to; used by "released".
    Returns the Euclidean norm of the change.
    """
    squared_norm = 0.0
    for name, weight in weights.items():
        weight.copy_(weight.to(torch.bfloat16))  # changes something only if the run did not start from bfloat16
        before = weight.clone()
        if mode in ("released", "exact_restore"):
            rounded = weight.to(torch.bfloat16)
            if mode == "released":
                walk(rounded, name, walked, sigma, noise)
            for seed, coefficient in zip(seeds, coefficients, strict=True):
                if coefficient != 0.0:
                    add_rounded(rounded, noise.draw(seed, name, weight), coefficient)
        else:
            total = torch.zeros_like(weight)
            for seed, coefficient in zip(seeds, coefficients, strict=True):
                if coefficient != 0.0:
                    total.add_(noise.draw(seed, name, weight), alpha=coefficient)
            total.add_(weight)
            if mode == "fp32_sum":
                rounded = total.to(torch.bfloat16)
            else:
                generator = torch.Generator(weight.device).manual_seed(hash64("rounding", rounding_seed, name) >> 1)
                bits = torch.randint(2**16, weight.shape, generator=generator, device=weight.device, dtype=torch.int32)
                rounded = round_stochastically(total, bits)
        weight.copy_(rounded)
        squared_norm += float(torch.linalg.vector_norm(weight - before, dtype=torch.float64)) ** 2
    return math.sqrt(squared_norm)
