"""How alike two circuits are, against how alike one circuit is to itself when its examples are drawn anew.

Scores are vectors over nodes or edges, higher for what helps more. A circuit of size k is the k highest.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from analysis import statistics
from analysis.circuits.nodes import parse_node


def top(scores: torch.Tensor, size: int) -> set[int]:
    """Positions of the `size` highest scores; of equal ones the earlier."""
    return set(scores.argsort(descending=True, stable=True)[:size].tolist())


def jaccard(one: set[int], other: set[int]) -> float:
    """Shared share of all members; 1 for two empty sets."""
    return len(one & other) / len(one | other) if one | other else 1.0


def recall(one: set[int], other: set[int]) -> float:
    """Share of `one` that `other` has too; 1 if `one` is empty."""
    return len(one & other) / len(one) if one else 1.0


def weighted_jaccard(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """sum of min(|s1|, |s2|) over sum of max(|s1|, |s2|), [..., N] to [...]; 1 for the same strengths."""
    one, other = one.abs(), other.abs()
    return torch.minimum(one, other).sum(-1) / torch.maximum(one, other).sum(-1)


def spearman(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Rank correlation of score vectors, [..., N] to [...]; equal scores share their mean rank."""
    return torch.from_numpy(np.asarray(statistics.spearman(one.numpy(), other.numpy())))


def top_jaccard(one: torch.Tensor, other: torch.Tensor, size: int) -> torch.Tensor:
    """Jaccard index of the two circuits of `size`, [..., N] to [...]."""
    members = []
    for scores in (one, other):
        chosen = scores.argsort(dim=-1, descending=True, stable=True)[..., :size]
        members.append(torch.zeros_like(scores, dtype=torch.bool).scatter(-1, chosen, True))
    return (members[0] & members[1]).sum(-1) / (members[0] | members[1]).sum(-1)


def change_in_scores(before: torch.Tensor, after: torch.Tensor) -> dict[str, float]:
    """Sum of |after - before|, and its parts that went up and down, all as shares of the sum of |before|."""
    difference, total = (after - before).double(), before.double().abs().sum()
    return {
        "total": (difference.abs().sum() / total).item(),
        "increase": (difference.clamp(min=0).sum() / total).item(),
        "decrease": (-difference.clamp(max=0).sum() / total).item(),
    }


def profile(scores: torch.Tensor, nodes: Sequence[str]) -> dict[str, float]:
    """Where in the model the strength |score| lies, `input` left out.

    attention: share of the heads. depth: mean layer, weighted by strength, from 0 (first layer) to 1 (last).
    """
    places = [parse_node(name) for name in nodes]
    strength = torch.tensor(
        [0.0 if layer < 0 else abs(score) for (layer, _), score in zip(places, scores.tolist(), strict=True)]
    )
    layers = torch.tensor([float(layer) for layer, _ in places])
    heads = torch.tensor([head is not None for _, head in places])
    total = strength.sum()
    return {
        "attention": (strength[heads].sum() / total).item(),
        "depth": ((strength * layers).sum() / total / max(1.0, layers.max().item())).item(),
    }


def with_null(
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    before: torch.Tensor,
    after: torch.Tensor,
    resamples: int,
    seed: int,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """A likeness of two models' circuits beside its null: two circuits of the first model from redrawn examples.

    measure: [R, N] and [R, N] mean scores to [R] likenesses. before, after: per-example scores [n, N] of the two
    models on the same n examples. In each of `resamples` draws two sets of n examples are drawn with replacement, one
    for either side; the null takes both sides from `before`, the comparison takes the second from `after`.

    Returns "value" (all examples), "null" (mean over resamples, with "null_low" and "null_high"), "difference" (mean
    over resamples of comparison minus null, with its percentile interval "low" and "high"): below 0 with the whole
    interval, the circuits differ by more than the choice of examples makes one circuit differ from itself.
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(before)
    draws = [torch.randint(count, (resamples, count), generator=generator) for _ in range(2)]
    weights = [torch.zeros(resamples, count).scatter_add_(1, draw, torch.ones(resamples, count)) for draw in draws]
    first, second, changed = (
        weight / count @ scores.float()
        for weight, scores in ((weights[0], before), (weights[1], before), (weights[1], after))
    )
    null, compared = measure(first, second).double(), measure(first, changed).double()
    tail = (1 - confidence) / 2
    ends = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    low, high = (compared - null).quantile(ends).tolist()
    null_low, null_high = null.quantile(ends).tolist()
    return {
        "value": measure(before.float().mean(0, keepdim=True), after.float().mean(0, keepdim=True)).item(),
        "null": null.mean().item(),
        "null_low": null_low,
        "null_high": null_high,
        "difference": (compared - null).mean().item(),
        "low": low,
        "high": high,
        "examples": count,
        "resamples": resamples,
    }
