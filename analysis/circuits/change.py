"""What post-training did to a circuit: is it another one, does the old one still do, and where did the gain arise.

Models of one shape, the first of them the one that the others were trained from. Everything is measured on examples
that all of them solve, so that a difference is one of mechanism, not of success; half of the examples find circuits,
the other half judge them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import torch

from analysis.circuits.attribution import Attribution, attribute
from analysis.circuits.batch import Batch
from analysis.circuits.data import solved_batch
from analysis.circuits.edges import EdgeAttribution, attribute_edges
from analysis.circuits.faithfulness import SHARES, Curve, Interval, faithfulness_curve, gates_of_sizes
from analysis.circuits.nodes import CircuitModel, parse_node
from analysis.circuits.overlap import (
    change_in_scores,
    jaccard,
    profile,
    recall,
    spearman,
    top,
    top_jaccard,
    weighted_jaccard,
    with_null,
)
from analysis.circuits.transplant import transplant
from analysis.statistics import chance_overlap
from eval.errors import UserError
from eval.rollout.loading import load_model


@dataclass(frozen=True)
class ChangeOptions:
    """method, steps: of the attribution (see `attribute`). circuit_share: of nodes, or edges, that make a circuit.

    resamples, seed: of every bootstrap. rows: as many prompts go through a model at once.
    """

    method: str = "nap-ig-inputs"
    steps: int = 5
    circuit_share: float = 0.2
    resamples: int = 500
    seed: int = 0
    rows: int = 256


@dataclass(frozen=True, eq=False)
class Found:
    """The circuits of one model on one task: node scores and edge scores, each with those of every example."""

    nodes: Attribution
    edges: EdgeAttribution

    def edge_vector(self) -> torch.Tensor:
        """[M] scores of the edges that exist."""
        return self.edges.scores[self.edges.exists]

    def edge_vectors(self) -> torch.Tensor:
        """[E, M] of every example."""
        return self.edges.per_example[:, self.edges.exists]


def task_change(
    models: Mapping[str, CircuitModel], finding: Sequence[Batch], judging: Sequence[Batch], options: ChangeOptions
) -> tuple[dict[str, Any], dict[str, Found]]:
    """Everything about one task. finding, judging: batches of examples for attribution and for faithfulness.

    Returns plain JSON, and the circuits. The JSON:

    circuits: {model: {"scores", "profile", "completeness", "key_value_heads", "top_edges"}}.
    overlap: {"a|b": {"nodes", "edges"}}, each with `jaccard`, `spearman`, `weighted` beside their nulls (see
        `with_null`), `recall`, `chance` (of the shared nodes) and `score_change`.
    cross_faithfulness: {model whose circuit: {model it is run in: curve}}.
    transplant: {"a>b": {...}}: nodes of a put into b, for the first model with each of the others.
    edge_change: {model: [layers + 1]}, sums of |score - score of the first model| over the edges that begin in
        `input` or in a layer, for the models but the first.

    Raises UserError if the models do not have the same nodes and width.
    """
    check_same_shape(models)
    found = {
        name: Found(
            attribute(model, finding, options.method, steps=options.steps, rows=options.rows),
            attribute_edges(model, finding, edge_method(options.method), steps=options.steps, per_example=True),
        )
        for name, model in models.items()
    }
    base, *others = models
    result = {
        "circuits": {name: _described(models[name], circuit) for name, circuit in found.items()},
        "overlap": {
            f"{one}|{other}": {
                "nodes": likeness(found[one].nodes.per_example[:, 1:], found[other].nodes.per_example[:, 1:], options),
                "edges": likeness(found[one].edge_vectors(), found[other].edge_vectors(), options),
            }
            for one, other in pairs(list(models))
        },
        "cross_faithfulness": {
            one: {other: as_json(_curve(models[other], judging, found[one], options)) for other in models}
            for one in models
        },
        "transplant": {
            f"{donor}>{receiver}": transplanted(
                models[receiver], models[donor], judging, found[donor].nodes.scores, options
            )
            for donor, receiver in permutations(models, 2)
            if base in (donor, receiver)
        },
        "edge_change": {name: edge_change_by_layer(found[base].edges, found[name].edges) for name in others},
    }
    return result, found


def checkpoint_changes(
    folders: Mapping[str, Path], tasks: Sequence[str], examples: int, device: str | None, options: ChangeOptions
) -> dict[str, Any]:
    """{task: what `task_change` finds, with "nodes" and "examples"} for checkpoint folders, the first the base.

    examples: of the train split to find circuits and of the test split to judge them; all models solve them.
    device: the GPU if there is one and None is given. Raises UserError as `task_change` and `solved_batch` do.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    loaded = {name: load_model(folder, torch.float32) for name, folder in folders.items()}
    models = {name: CircuitModel(model.to(device)) for name, (model, _) in loaded.items()}
    tokenizer = next(iter(loaded.values()))[1]
    found = {}
    for task in tasks:
        batches, reports = [], {}
        for split in ("train", "test"):
            batch, reports[split] = solved_batch(models, tokenizer, task, split, examples, options.seed, options.rows)
            batches.append([part.to(device) for part in batch.split(options.rows)])
        result, _ = task_change(models, *batches, options)
        found[task] = {"nodes": list(next(iter(models.values())).nodes), "examples": reports, **result}
    return found


def edge_method(method: str) -> str:
    """Edges are attributed with one gradient, or along the input path: nearest to how the nodes were."""
    return "nap" if method == "nap" else "nap-ig-inputs"


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Each two of `names`, in their order."""
    return [(one, other) for i, one in enumerate(names) for other in names[i + 1 :]]


def check_same_shape(models: Mapping[str, CircuitModel]) -> None:
    """Raise UserError if the models do not have the same nodes, heads and width."""
    first, *others = models
    for name in others:
        one, other = models[first], models[name]
        if (one.nodes, one.key_value_heads, one.width) != (other.nodes, other.key_value_heads, other.width):
            raise UserError(f"{name} does not have the shape of {first}; compare checkpoints of one model")


def likeness(before: torch.Tensor, after: torch.Tensor, options: ChangeOptions) -> dict[str, Any]:
    """How alike two models' scores are, [n, N] each, `input` left out. See `with_null` for the three nulls."""
    size = max(1, round(options.circuit_share * before.shape[1]))
    measures = {
        "jaccard": lambda one, other: top_jaccard(one, other, size),
        "spearman": spearman,
        "weighted": weighted_jaccard,
    }
    first, second = before.double().mean(0), after.double().mean(0)
    circuits = top(first, size), top(second, size)
    shared = len(circuits[0] & circuits[1])
    return {
        "size": size,
        "of": before.shape[1],
        "shared": shared,
        "recall": recall(*circuits),
        "chance": chance_overlap(shared, before.shape[1], size, size),
        "score_change": change_in_scores(first, second),
        "curve": {
            "sizes": (sizes := sorted({max(1, round(share * before.shape[1])) for share in OVERLAP_SHARES})),
            "jaccard": [jaccard(top(first, some), top(second, some)) for some in sizes],
        },
        **{
            name: with_null(measure, before, after, options.resamples, options.seed)
            for name, measure in measures.items()
        },
    }


# Of the nodes, or edges: where the overlap of growing circuits is measured.
OVERLAP_SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


def transplanted(
    receiver: CircuitModel,
    donor: CircuitModel,
    batches: Sequence[Batch],
    donor_scores: torch.Tensor,
    options: ChangeOptions,
) -> dict[str, Any]:
    """What the receiver gains from the donor's activations of each node, and of the donor's circuit.

    receiver, donor: mean logit difference of either. nodes: [N] means after a transplant of one node, in the order of
    the models' nodes. sizes, circuits: the same for the donor's best nodes, several at once. `input` is never among
    them.
    """
    count = len(receiver.nodes)
    sizes = sorted({max(1, round(share * (count - 1))) for share in (*OVERLAP_SHARES, 1.0)})
    circuits = gates_of_sizes(receiver, donor_scores, sizes, "always", "signed").bool().cpu()
    circuits[:, 0] = False
    sets = torch.cat([torch.eye(count, dtype=torch.bool), circuits])
    parts = [
        transplant(receiver, donor, batch, sets, options.rows, max(1, options.rows // len(batch))) for batch in batches
    ]
    changed, own, other = (torch.cat(tensors, -1) for tensors in zip(*parts, strict=True))
    means = changed.double().mean(1).tolist()
    return {
        "receiver": own.double().mean().item(),
        "donor": other.double().mean().item(),
        "nodes": means[:count],
        "sizes": sizes,
        "circuits": means[count:],
        "examples": len(own),
    }


def edge_change_by_layer(before: EdgeAttribution, after: EdgeAttribution) -> list[float]:
    """Sum of |after - before| over the edges that begin in `input`, then in each layer: [layers + 1]."""
    difference = (after.scores - before.scores).abs().sum(1)
    layers = [parse_node(name)[0] for name in before.writers]
    totals = [0.0] * (max(layers) + 2)
    for layer, change in zip(layers, difference.tolist(), strict=True):
        totals[layer + 1] += change
    return totals


def as_json(curve: Curve) -> dict[str, Any]:
    """A curve without its examples."""
    return {
        "shares": list(curve.shares),
        "sizes": list(curve.sizes),
        "f": [point.value for point in curve.f],
        "f_low": [point.low for point in curve.f],
        "f_high": [point.high for point in curve.f],
        **{
            key: value
            for name in ("cpr", "cmd", "log_cpr", "average")
            for key, value in interval(name, vars(curve)[name]).items()
        },
        "threshold": curve.threshold,
        "smallest": curve.smallest,
        "examples": len(curve.differences.clean),
        "clean": curve.differences.clean.double().mean().item(),
        "ablated": curve.differences.ablated.double().mean().item(),
        "input_policy": curve.input_policy,
        "ranking": curve.ranking,
        "ablation": curve.ablation,
    }


def interval(name: str, found: Interval) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _curve(model: CircuitModel, batches: Sequence[Batch], circuit: Found, options: ChangeOptions) -> Curve:
    return faithfulness_curve(
        model, batches, circuit.nodes.scores, SHARES, resamples=options.resamples, seed=options.seed, rows=options.rows
    )


def _described(model: CircuitModel, circuit: Found) -> dict[str, Any]:
    check = circuit.nodes.completeness
    return {
        "scores": circuit.nodes.scores.tolist(),
        "profile": profile(circuit.nodes.scores, model.nodes),
        "completeness": None if check is None else vars(check),
        "key_value_heads": model.key_value_heads,
        "top_edges": strongest_edges(circuit.edges),
    }


def strongest_edges(edges: EdgeAttribution, count: int = 40) -> list[list[Any]]:
    """[writer, reader, score] of the `count` edges of highest |score|, queries, keys and values of heads apart."""
    strength = torch.where(edges.exists, edges.scores.abs(), -1.0).flatten()
    best = strength.argsort(descending=True, stable=True)[: min(count, int(edges.exists.sum()))]
    return [
        [
            edges.writers[i // len(edges.readers)],
            edges.readers[i % len(edges.readers)],
            edges.scores.flatten()[i].item(),
        ]
        for i in best.tolist()
    ]
