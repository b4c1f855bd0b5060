"""Do attribution, edges and learned gates find a circuit that is known, and does faithfulness tell that they do?

AUROC compares a ranking with the planted nodes; CPR is what a metric of faithfulness makes of the same ranking. Gates
learned for that metric's own objective are the control: they may score well without the ranking being right.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch

from analysis.circuits.alignment import PRESETS
from analysis.circuits.attribution import METHODS, attribute
from analysis.circuits.controls import learn_masks
from analysis.circuits.edge_circuits import edge_faithfulness_curve
from analysis.circuits.edges import EDGE_METHODS, attribute_edges, existing_edges, reader_names
from analysis.circuits.faithfulness import faithfulness_curve
from analysis.circuits.nodes import CircuitModel, parse_node
from analysis.circuits.planted import model_batch, planted_llama
from eval.errors import UserError


def planted_recovery(
    circuit: Collection[str], seeds: Sequence[int] = (0, 1, 2), examples: int = 24, length: int = 8
) -> dict[str, Any]:
    """{"circuit", "seeds", "examples", "nodes": {method: {"auroc": per seed, "cpr": per seed}}, "edges": the same}.

    One planted model of two layers of four heads per seed. Circuits are found on some random prompts and judged on
    others. Raises UserError for a node that the model lacks, and for no node besides `input`.
    """
    if not set(circuit) - {"input"}:
        raise UserError("there is no node to find but input, which every circuit keeps; plant a head or an MLP")
    methods = {"nodes": [*METHODS, "learned gates"], "edges": EDGE_METHODS}
    recovered = {what: {method: {"auroc": [], "cpr": []} for method in methods[what]} for what in methods}
    for seed in seeds:
        model = CircuitModel(planted_llama(circuit, seed=seed))
        finding, held_out, judging = (model_batch(model, examples, length, seed=3 * seed + part) for part in range(3))
        nodes = torch.tensor([node in circuit for node in model.nodes[1:]])
        edges, exists = planted_edges(model, circuit), existing_edges(model)
        for method, entry in recovered["nodes"].items():
            if method == "learned gates":
                scores, _ = learn_masks(model, finding, PRESETS["corrected"], seed, held_out)
            else:
                scores = attribute(model, [finding], method).scores
            entry["auroc"].append(auroc(scores[1:], nodes))
            entry["cpr"].append(faithfulness_curve(model, [judging], scores).cpr.value)
        for method, entry in recovered["edges"].items():
            of_edges = attribute_edges(model, [finding], method)
            entry["auroc"].append(auroc(of_edges.scores.abs()[exists], edges[exists]))
            entry["cpr"].append(edge_faithfulness_curve(model, [judging], of_edges).cpr.value)
    return {"circuit": sorted(circuit), "seeds": list(seeds), "examples": examples, **recovered}


def planted_edges(model: CircuitModel, circuit: Collection[str]) -> torch.Tensor:
    """[N, R] bool: the edges between planted nodes, from `input` and to the logits.

    Keys and values of a group are read if one of its query heads is planted.
    """
    read = {"logits", *circuit}
    for layer, head in map(parse_node, circuit):
        if head is not None:
            group = head // (model.heads // model.key_value_heads)
            read |= {f"a{layer}.h{head}.q", f"a{layer}.kv{group}.k", f"a{layer}.kv{group}.v"}
    writers = torch.tensor([node == "input" or node in circuit for node in model.nodes])
    readers = torch.tensor([reader in read for reader in reader_names(model)])
    return writers[:, None] & readers & existing_edges(model)


def auroc(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Chance that a member of the circuit ranks above one outside of it, ties counting half.

    scores, positive: [N] numbers and bools. Raises ValueError if either kind is missing.
    """
    inside, outside = scores[positive], scores[~positive]
    if not len(inside) or not len(outside):
        raise ValueError("AUROC needs nodes inside and outside of the circuit")
    above = (inside[:, None] > outside).double() + 0.5 * (inside[:, None] == outside)
    return above.mean().item()
