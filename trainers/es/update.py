"""The update, and how to rebuild it from the seed log."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from eval.errors import UserError
from eval.storage import read_jsonl
from trainers.es.noise import Noise


Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Update:
    """One step, complete: with the weights before it, everything that decides the weights after it.

    coefficients: (alpha / members) * z_i * sign_i for each seed.
    decay: share of the distance to the base weights that the step takes back (alpha times the anchor's weight).
    device: kind of device that drew the noise; another kind draws other numbers.
    """

    step: int
    seeds: list[int]
    coefficients: list[float]
    decay: float
    shared_noise: bool
    device: str

    def row(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def apply_update(weights: Weights, base: Weights, update: Update) -> float:
    """theta <- theta + sum_i coefficient_i * epsilon_i, then theta <- base + (1 - decay)(theta - base), in place.

    weights, base: float32, by parameter name. The sum is formed in float32, seed by seed in the order of the log, so
    that every process and every replay gets the same bits. Returns the Euclidean norm of the step.
    """
    noise = Noise(shared=update.shared_noise)
    squared_norm = 0.0
    for name, weight in weights.items():
        total = torch.zeros_like(weight)
        for seed, coefficient in zip(update.seeds, update.coefficients, strict=True):
            if coefficient != 0.0:
                total.add_(noise.draw(seed, name, weight), alpha=coefficient)
        if update.decay:
            total.sub_(weight + total - base[name], alpha=update.decay)
        weight.add_(total)
        squared_norm += float(total.double().pow(2).sum())
    return math.sqrt(squared_norm)


def read_seed_log(path: Path) -> list[Update]:
    return [Update(**row) for row in read_jsonl(path)]


def replay(base: Weights, updates: Iterable[Update]) -> Weights:
    """The weights after these updates, bit for bit those of the run that logged them.

    base: float32 weights of the model that the run started from; left as they are.
    """
    weights = {name: weight.clone() for name, weight in base.items()}
    for expected, update in enumerate(updates, start=1):
        device = next(iter(weights.values())).device.type
        if update.device != device:
            raise UserError(
                f"the seed log was written on {update.device}, whose noise {device} cannot draw; "
                f"replay it on {update.device}"
            )
        if update.step != expected:
            raise UserError(f"the seed log jumps from step {expected - 1} to {update.step}; it is not complete")
        apply_update(weights, base, update)
    return weights
