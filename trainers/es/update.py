"""The update, and how to rebuild it from the seed log."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.errors import UserError
from eval.storage import read_jsonl
from trainers.es.bfloat16 import apply_rounded_update
from trainers.es.noise import Noise


Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Update:
    """One step, complete: with the weights before it, everything that decides the weights after it.

    coefficients: (alpha / members) * z_i * sign_i for each seed.
    decay: share of the distance to the base weights that the step takes back (alpha times the anchor's weight).
    device: kind of device that drew the noise; another kind draws other numbers.
    rank, rest: the noise's (see `trainers.es.noise.Noise`).
    precision, sigma, walked: how the update is rounded (see `trainers.es.bfloat16.apply_rounded_update`).
    """

    step: int
    seeds: list[int]
    coefficients: list[float]
    decay: float
    shared_noise: bool
    device: str
    rank: int = 0
    rest: str = "dense"
    precision: str = "fp32_master"
    sigma: float = 0.0
    walked: list[list[int]] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def apply_update(weights: Weights, base: Weights, update: Update) -> float:
    """theta <- theta + sum_i coefficient_i * epsilon_i, then theta <- base + (1 - decay)(theta - base), in place.

    weights, base: float32, by parameter name. The sum is formed in float32, seed by seed in the order of the log, so
    that every process and every replay gets the same bits. A sum of low-rank noise is one matrix product, the same to
    the bit on the same kind of machine with the same number of threads. Returns the Euclidean norm of the step.
    """
    noise = Noise(update.shared_noise, update.rank, update.rest)
    if update.precision != "fp32_master":
        return apply_rounded_update(
            weights,
            update.precision,
            update.seeds,
            update.coefficients,
            noise,
            sigma=update.sigma,
            walked=update.walked,
            rounding_seed=update.seeds[0],
        )
    terms = [pair for pair in zip(update.seeds, update.coefficients, strict=True) if pair[1] != 0.0]
    squared_norm = 0.0
    for name, weight in weights.items():
        kind = noise.kind(name, weight)
        if kind == "frozen":
            continue  # it is where it started, so the decay has nothing to take back
        total = _low_rank_sum(noise, terms, name, weight) if kind == "low_rank" else torch.zeros_like(weight)
        if kind == "dense":
            for seed, coefficient in terms:
                total.add_(noise.draw(seed, name, weight), alpha=coefficient)
        if update.decay:
            total.sub_(weight + total - base[name], alpha=update.decay)
        weight.add_(total)
        squared_norm += float(torch.linalg.vector_norm(total, dtype=torch.float64)) ** 2
    return math.sqrt(squared_norm)


def _low_rank_sum(noise: Noise, terms: list[tuple[int, float]], name: str, weight: torch.Tensor) -> torch.Tensor:
    """sum_i coefficient_i A_i B_i^T / sqrt(rank): [A_1 c_1 .. A_N c_N] [B_1 .. B_N]^T, of rank up to N times rank."""
    if not terms:
        return torch.zeros_like(weight)
    left, right = [], []
    for seed, coefficient in terms:
        a, b = noise.factors(seed, name, weight)
        left.append(a * (coefficient / math.sqrt(noise.rank)))
        right.append(b)
    return torch.cat(left, dim=1) @ torch.cat(right, dim=1).T


def read_seed_log(path: Path) -> list[Update]:
    return [Update(**row) for row in read_jsonl(path)]


def replay(base: Weights, updates: Iterable[Update]) -> Weights:
    """The weights after these updates, bit for bit those of the run that logged them.

    base: float32 weights of the model that the run started from; left as they are.
    """
    last = deque(replayed(base, updates), maxlen=1)
    return last[0] if last else {name: weight.clone() for name, weight in base.items()}


def replayed(base: Weights, updates: Iterable[Update]) -> Iterator[Weights]:
    """The weights after each of these updates; the tensors are the same ones, changed in place by the next.

    Raises `UserError` for a log with a gap, or of another kind of device than that of `base`.
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
        yield weights


def permuted(updates: Iterable[Update], seed: int) -> list[Update]:
    """The same seeds with the fitness of each step shuffled among its members: the same noise, nothing learned.

    What is shuffled is z_i; the sign of an antithetic pair's second member stays with it.
    """
    order, shuffled = np.random.default_rng(seed), []
    for update in updates:
        signs = [-1.0 if member in update.seeds[:i] else 1.0 for i, member in enumerate(update.seeds)]
        z = [c * sign for c, sign in zip(update.coefficients, signs, strict=True)]
        coefficients = [z[i] * sign for i, sign in zip(order.permutation(len(z)), signs, strict=True)]
        shuffled.append(replace(update, coefficients=coefficients))
    return shuffled
