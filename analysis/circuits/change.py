"""What post-training did to a circuit: is it another one, does the old one still do, and where did the gain arise.

Models of one shape, the first of them the one that the others were trained from. Everything is measured on examples
that all of them solve, so that a difference is one of mechanism, not of success; half of the examples find circuits,
the other half judge them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import torch

from analysis.circuits.attribution import METHODS, Attribution, attribute
from analysis.circuits.batch import Batch
from analysis.circuits.data import solved_batches
from analysis.circuits.edge_circuits import edge_faithfulness_curve
from analysis.circuits.edges import EdgeAttribution, attribute_edges
from analysis.circuits.faithfulness import faithfulness_curve, gates_of_sizes
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


# Of the nodes, or edges: where the overlap of growing circuits is measured.
OVERLAP_SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


@dataclass(frozen=True)
class ChangeOptions:
    """How circuits are found and compared."""

    method: str = field(default="nap-ig-inputs", metadata={"help": f"attribution: {', '.join(METHODS)}"})
    steps: int = field(default=5, metadata={"help": "steps of integrated gradients"})
    circuit_share: float = field(default=0.2, metadata={"help": "share of nodes, or edges, compared as a circuit"})
    resamples: int = field(default=500, metadata={"help": "bootstrap resamples behind every interval"})
    seed: int = field(default=0, metadata={"help": "of examples, alignment maps, resamples and trainings"})
    rows: int = field(default=256, metadata={"help": "prompts that go through a model at once"})
    edges: bool = field(default=False, metadata={"help": "measure the faithfulness of circuits of edges as well"})


def task_change(
    models: Mapping[str, CircuitModel], finding: Sequence[Batch], judging: Sequence[Batch], options: ChangeOptions
) -> dict[str, Any]:
    """Everything about one task. finding, judging: batches of examples for attribution and for faithfulness.

    Returns plain JSON:

    circuits: {model: {"scores", "profile", "completeness", "key_value_heads", "top_edges"}}.
    overlap: {"a|b": {"nodes", "edges"}}, each with `jaccard`, `spearman`, `weighted` beside their nulls (see
        `with_null`), `recall`, `chance` (of the shared nodes) and `score_change`.
    cross_faithfulness: {model whose circuit: {model it is run in: curve}}.
    edge_faithfulness: {model: curve of its edges}, if asked for.
    transplant: {"a>b": {...}}: nodes of a put into b, for the first model with each of the others.
    edge_change: {model: [layers + 1]}, sums of |score - score of the first model| over the edges that begin in
        `input` or in a layer, for the models but the first.

    Raises UserError if the models do not have the same nodes and width.
    """
    check_same_shape(models)
    nodes, edges = {}, {}
    for name, model in models.items():
        nodes[name] = attribute(model, finding, options.method, steps=options.steps, rows=options.rows)
        # Edges are attributed with one gradient, or along the input path: nearest to how the nodes were.
        method = "nap" if options.method == "nap" else "nap-ig-inputs"
        edges[name] = attribute_edges(model, finding, method, steps=options.steps, per_example=True)

    settings = {"resamples": options.resamples, "seed": options.seed, "rows": options.rows}

    def curve(circuit_of: str, name: str) -> dict[str, Any]:
        return faithfulness_curve(models[name], judging, nodes[circuit_of].scores, **settings).as_dict()

    base, *others = models
    change = {
        "circuits": {name: _described(model, nodes[name], edges[name]) for name, model in models.items()},
        "overlap": {
            f"{one}|{other}": {
                "nodes": likeness(nodes[one].per_example[:, 1:], nodes[other].per_example[:, 1:], options),
                "edges": likeness(edges[one].of_existing(), edges[other].of_existing(), options),
            }
            for one, other in combinations(models, 2)
        },
        "cross_faithfulness": {one: {other: curve(one, other) for other in models} for one in models},
        "transplant": {
            f"{donor}>{receiver}": transplanted(models[receiver], models[donor], judging, nodes[donor].scores, options)
            for donor, receiver in permutations(models, 2)
            if base in (donor, receiver)
        },
        "edge_change": {name: edge_change_by_layer(edges[base], edges[name]) for name in others},
    }
    if options.edges:
        change["edge_faithfulness"] = {
            name: edge_faithfulness_curve(model, judging, edges[name], **settings).as_dict()
            for name, model in models.items()
        }
    return change


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
    changes = {}
    for task in tasks:
        batches, reports = {}, {}
        for split in ("train", "test"):
            batches[split], reports[split] = solved_batches(
                models, tokenizer, task, split, examples, options.seed, options.rows
            )
        change = task_change(models, batches["train"], batches["test"], options)
        changes[task] = {"nodes": list(next(iter(models.values())).nodes), "examples": reports, **change}
    return changes


def check_same_shape(models: Mapping[str, CircuitModel]) -> None:
    """Raise UserError if the models do not have the same nodes, heads and width."""
    first, *others = models
    for name in others:
        one, other = models[first], models[name]
        if (one.nodes, one.key_value_heads, one.width) != (other.nodes, other.key_value_heads, other.width):
            raise UserError(f"{name} does not have the shape of {first}; compare checkpoints of one model")


def likeness(before: torch.Tensor, after: torch.Tensor, options: ChangeOptions) -> dict[str, Any]:
    """How alike two models' scores are, [n, N] each, `input` left out. See `with_null` for the three nulls."""
    count = before.shape[1]
    size = max(1, round(options.circuit_share * count))
    sizes = sorted({max(1, round(share * count)) for share in OVERLAP_SHARES})
    measures = {"jaccard": partial(top_jaccard, size=size), "spearman": spearman, "weighted": weighted_jaccard}
    first, second = before.double().mean(0), after.double().mean(0)
    circuits = top(first, size), top(second, size)
    shared = len(circuits[0] & circuits[1])
    return {
        "size": size,
        "of": count,
        "shared": shared,
        "recall": recall(*circuits),
        "chance": chance_overlap(shared, count, size, size),
        "score_change": change_in_scores(first, second),
        "curve": {
            "sizes": sizes,
            "jaccard": [jaccard(top(first, some), top(second, some)) for some in sizes],
        },
        **{
            name: with_null(measure, before, after, options.resamples, options.seed)
            for name, measure in measures.items()
        },
    }


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


def _described(model: CircuitModel, nodes: Attribution, edges: EdgeAttribution) -> dict[str, Any]:
    return {
        "scores": nodes.scores.tolist(),
        "profile": profile(nodes.scores, model.nodes),
        "completeness": None if nodes.completeness is None else vars(nodes.completeness),
        "key_value_heads": model.key_value_heads,
        "top_edges": strongest_edges(edges),
    }


def strongest_edges(edges: EdgeAttribution, count: int = 40) -> list[list[Any]]:
    """[writer, reader, score] of the `count` edges of highest |score|, queries, keys and values of heads apart."""
    strength = torch.where(edges.exists, edges.scores.abs(), -1.0).flatten()
    best = strength.argsort(descending=True, stable=True)[: min(count, int(edges.exists.sum()))]
    places = [divmod(place, len(edges.readers)) for place in best.tolist()]
    return [[edges.writers[u], edges.readers[r], edges.scores[u, r].item()] for u, r in places]
