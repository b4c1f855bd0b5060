"""How much of a model's behaviour a circuit keeps when everything else is knocked out (MIB; arXiv 2504.13151).

With m = mean over examples of logit[answer] - logit[wrong answer] at the last real token, the faithfulness of a
circuit C is f(C) = (m(C) - m(nothing)) / (m(everything) - m(nothing)): 1 for the whole model, 0 for the run in which
every node is knocked out. Nodes outside of C write their replacement; nodes inside compute on what they are given
("noising").
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from analysis.circuits.ablation import ablated_run, mean_activations
from analysis.circuits.attribution import check_choice, circuit_losses
from analysis.circuits.batch import Batch, answer_loss
from analysis.circuits.nodes import Activations, CircuitModel, Run
from analysis.statistics import percentile_interval, resample_counts
from eval.errors import UserError


SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
INPUT_POLICIES = ("always", "ranked")
RANKINGS = ("signed", "absolute")


@dataclass(frozen=True, eq=False)
class LogitDifferences:
    """logit[answer] - logit[wrong answer] of each of E examples, float32 on the CPU.

    clean: [E], of the whole model. ablated: [E], with every node knocked out. circuits: [K, E].
    """

    clean: torch.Tensor
    ablated: torch.Tensor
    circuits: torch.Tensor

    def faithfulness(self, weights: torch.Tensor | None = None) -> torch.Tensor:
        """f of each circuit, a ratio of means over examples: [K], or [R, K] for [R, E] `weights` of the examples."""
        if weights is None:
            return self.faithfulness(torch.ones(1, len(self.clean)))[0]
        weights = weights.double()
        clean, ablated = weights @ self.clean.double(), weights @ self.ablated.double()
        kept = weights @ self.circuits.double().T
        return (kept - ablated[:, None]) / (clean - ablated)[:, None]


@dataclass(frozen=True)
class Interval:
    """A value over all examples, and the ends of its 95 % bootstrap interval over examples."""

    value: float
    low: float
    high: float

    def as_dict(self, name: str) -> dict[str, float]:
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


@dataclass(frozen=True, eq=False)
class Curve:
    """Faithfulness of the circuits of a growing share of a ranking's best nodes.

    shares: K of the nodes that are ranked. sizes: K numbers of nodes kept, without `input` if it is always kept.
    f: K values.
    cpr: area under f over the share k (trapezoids; the whole model keeps 1 - shares[0]). Higher is better.
    cmd: area between f and 1, the distance from the model's own behaviour. Lower is better.
    log_cpr: mean of f over ln k; every octave of k counts alike, where cpr is decided by k above 0.2.
    average: mean of the K values of f.
    smallest: size of the smallest of these circuits with f >= threshold, None if no circuit has.
    differences: what all this was computed from.
    """

    input_policy: str
    ranking: str
    ablation: str
    shares: tuple[float, ...]
    sizes: tuple[int, ...]
    f: tuple[Interval, ...]
    cpr: Interval
    cmd: Interval
    log_cpr: Interval
    average: Interval
    threshold: float
    smallest: int | None
    differences: LogitDifferences

    def as_dict(self) -> dict[str, Any]:
        """The curve as JSON holds it, without its examples."""
        areas = {name: getattr(self, name) for name in ("cpr", "cmd", "log_cpr", "average")}
        return {
            "shares": list(self.shares),
            "sizes": list(self.sizes),
            "f": [point.value for point in self.f],
            "f_low": [point.low for point in self.f],
            "f_high": [point.high for point in self.f],
            **{key: value for name, area in areas.items() for key, value in area.as_dict(name).items()},
            "threshold": self.threshold,
            "smallest": self.smallest,
            "examples": len(self.differences.clean),
            "clean": self.differences.clean.double().mean().item(),
            "ablated": self.differences.ablated.double().mean().item(),
            "input_policy": self.input_policy,
            "ranking": self.ranking,
            "ablation": self.ablation,
        }


def faithfulness_curve(
    model: CircuitModel,
    batches: Sequence[Batch],
    scores: torch.Tensor,
    shares: Sequence[float] = SHARES,
    input_policy: str = "always",
    ranking: str = "signed",
    ablation: str = "counterfactual",
    means: Activations | None = None,
    threshold: float = 0.8,
    resamples: int = 1000,
    seed: int = 0,
    rows: int = 64,
) -> Curve:
    """Keep the best int(k * number of ranked nodes) nodes for each k in `shares` and measure what is left.

    scores: [N], of all nodes in the model's order.
    input_policy: "always" keeps the embeddings in every circuit and ranks the others. "ranked" lets them compete by
        their score, as the released MIB and DFA code does; a circuit without them sees nothing of the clean prompt and
        has f = 0, so that a ranking that puts `input` last scores a cpr of 0.25 however good it is.
    ranking: "signed" (highest score first, MIB's for CPR) or "absolute" (MIB's for CMD).
    ablation, means: see `ablated_run`; means are by default those of `batches` themselves.
    resamples, seed: of the bootstrap over examples behind the intervals.
    rows: as many prompts go through the model at once.

    Raises UserError for an unknown choice, shares that do not increase within (0, 1], no examples, or prompts on which
    the model's answers are as good with every node knocked out.
    """
    if any(not 0 < share <= 1 for share in shares) or list(shares) != sorted(set(shares)) or len(shares) < 2:
        raise UserError(f"shares {list(shares)} of a curve; give at least two that increase within (0, 1]")
    gates, sizes = top_circuits(model, scores, shares, input_policy, ranking)
    differences = logit_differences(model, batches, gates, ablation, means, rows)
    return summarise(differences, shares, sizes, input_policy, ranking, ablation, threshold, resamples, seed)


def top_circuits(
    model: CircuitModel, scores: torch.Tensor, shares: Sequence[float], input_policy: str, ranking: str
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """([K, N] gates of the best int(k * ranked) nodes, K sizes); of equal scores the earlier node comes first."""
    check_choice("input policy", input_policy, INPUT_POLICIES)
    ranked = len(model.nodes) - (input_policy == "always")
    sizes = tuple(int(share * ranked) for share in shares)
    return gates_of_sizes(model, scores, sizes, input_policy, ranking), sizes


def gates_of_sizes(
    model: CircuitModel, scores: torch.Tensor, sizes: Sequence[int], input_policy: str, ranking: str
) -> torch.Tensor:
    """[K, N] float32 gates that keep the best `size` nodes, and `input` besides if it is always kept."""
    check_choice("input policy", input_policy, INPUT_POLICIES)
    check_choice("ranking", ranking, RANKINGS)
    if tuple(scores.shape) != (len(model.nodes),):
        raise UserError(f"scores have shape {tuple(scores.shape)}; the model has {len(model.nodes)} nodes")
    values = scores.cpu().double().abs() if ranking == "absolute" else scores.cpu().double()
    first = 1 if input_policy == "always" else 0
    order = first + values[first:].argsort(descending=True, stable=True)
    gates = torch.zeros(len(sizes), len(model.nodes))
    for row, size in enumerate(sizes):
        gates[row, order[:size]] = 1.0
    gates[:, :first] = 1.0
    return gates.to(model.device)


def logit_differences(
    model: CircuitModel,
    batches: Sequence[Batch],
    gates: torch.Tensor,
    ablation: str = "counterfactual",
    means: Activations | None = None,
    rows: int = 64,
) -> LogitDifferences:
    """Run K circuits, [K, N] gates, on every example, beside the clean run and the one with every node knocked out.

    Equal circuits run once, and as many circuits of a batch go through the model together as `rows` allows. The
    circuit of all nodes is the clean run and that of none the knocked-out one. Raises UserError if there are no
    examples.
    """
    distinct, which = gates.to(model.device).unique(dim=0, return_inverse=True)
    partial = (distinct.sum(1) > 0) & (distinct.sum(1) < distinct.shape[1])

    def circuits(batch: Batch, clean: torch.Tensor, removed: Run) -> torch.Tensor:
        values = torch.where(distinct.sum(1, keepdim=True) > 0, clean, -answer_loss(removed.logits, batch))
        if partial.any():
            values[partial] = -circuit_losses(model, batch, removed.activations, distinct[partial], rows)
        return values[which]

    return differences_of_circuits(model, batches, circuits, ablation, means)


def differences_of_circuits(
    model: CircuitModel,
    batches: Sequence[Batch],
    circuits: Callable[[Batch, torch.Tensor, Run], torch.Tensor],
    ablation: str,
    means: Activations | None,
) -> LogitDifferences:
    """The logit differences of K circuits of any kind, beside those of the whole model and of none of it.

    circuits: takes a batch, the [B] logit differences of its clean run, and the run with every node knocked out;
    returns [K, B]. Raises UserError if there are no examples.
    """
    if not batches:
        raise UserError("there are no examples to evaluate on; give at least one batch")
    if ablation == "mean" and means is None:
        means = mean_activations(model, batches)
    parts = []
    for batch in tqdm(batches, desc="circuits", unit="batch", leave=False):
        batch = batch.to(model.device)
        removed = ablated_run(model, batch, ablation, means)
        with torch.no_grad():
            clean = -answer_loss(model.run(batch.clean_ids, batch.attention_mask).logits, batch)
            of_circuits = circuits(batch, clean, removed)
        parts.append((clean.cpu(), -answer_loss(removed.logits, batch).cpu(), of_circuits.cpu()))
    return LogitDifferences(*(torch.cat(tensors, dim=-1) for tensors in zip(*parts, strict=True)))


def summarise(
    differences: LogitDifferences,
    shares: Sequence[float],
    sizes: Sequence[int],
    input_policy: str,
    ranking: str,
    ablation: str,
    threshold: float = 0.8,
    resamples: int = 1000,
    seed: int = 0,
) -> Curve:
    """The curve of circuits that were run, with bootstrap intervals over examples."""
    clean, ablated = differences.clean.double().mean(), differences.ablated.double().mean()
    if clean == ablated:
        raise UserError(
            f"the mean logit difference is {clean.item():.4g} with all nodes and with none; "
            "give prompts that the model answers differently when they are corrupted"
        )
    f = differences.faithfulness()
    counts = resample_counts(len(differences.clean), resamples, torch.Generator().manual_seed(seed))
    resampled = differences.faithfulness(counts)

    def interval(value: torch.Tensor, values: torch.Tensor) -> Interval:
        return Interval(value.item(), *percentile_interval(values))

    sufficient = [size for size, value in zip(sizes, f.tolist(), strict=True) if value >= threshold]
    return Curve(
        input_policy=input_policy,
        ranking=ranking,
        ablation=ablation,
        shares=tuple(shares),
        sizes=tuple(sizes),
        f=tuple(interval(f[k], resampled[:, k]) for k in range(len(f))),
        cpr=interval(area(f, shares), area(resampled, shares)),
        cmd=interval(area((1 - f).abs(), shares), area((1 - resampled).abs(), shares)),
        log_cpr=interval(log_area(f, shares), log_area(resampled, shares)),
        average=interval(f.mean(), resampled.mean(1)),
        threshold=threshold,
        smallest=min(sufficient, default=None),
        differences=differences,
    )


def area(f: torch.Tensor, shares: Sequence[float]) -> torch.Tensor:
    """Area under f [..., K] over the share, by trapezoids: CPR of f, CMD of |1 - f| (MIB)."""
    return torch.trapezoid(f, torch.tensor(shares, dtype=f.dtype))


def log_area(f: torch.Tensor, shares: Sequence[float]) -> torch.Tensor:
    """The same over ln(share), divided by its range, so that f = 1 everywhere gives 1."""
    logs = torch.tensor([math.log(share) for share in shares], dtype=f.dtype)
    return torch.trapezoid(f, logs) / (logs[-1] - logs[0])
