"""Exact patching of edges: the loss with one edge cut, for every edge. For small models: each edge is a run."""

from collections.abc import Sequence

import torch
from tqdm import tqdm

from analysis.circuits.ablation import ablated_run, mean_activations
from analysis.circuits.batch import Batch, answer_loss
from analysis.circuits.edge_circuits import run_edges
from analysis.circuits.edges import EdgeAttribution, existing_edges, reader_names
from analysis.circuits.nodes import Activations, CircuitModel
from eval.errors import UserError


# A model with more edges than this takes hours; gradients answer in seconds.
MOST_EDGES = 20_000


def patch_edges(
    model: CircuitModel,
    batches: Sequence[Batch],
    ablation: str = "counterfactual",
    means: Activations | None = None,
    rows: int = 64,
) -> EdgeAttribution:
    """The change of the loss when each edge alone is cut: its reader reads what the writer writes knocked out.

    What the reader then writes goes on as it is, so that the effect is that of the edge and all paths behind it. Every
    example's scores are kept. rows: as many prompts go through the model at once. Raises UserError for a model of more
    than MOST_EDGES edges, an unknown ablation or no examples.
    """
    exists = existing_edges(model)
    if (count := int(exists.sum())) > MOST_EDGES:
        raise UserError(f"the model has {count} edges, at most {MOST_EDGES} can be cut one by one; use nap-ig-inputs")
    if not batches:
        raise UserError("there are no examples to attribute on; give at least one batch")
    if ablation == "mean" and means is None:
        means = mean_activations(model, batches)
    places = exists.flatten().nonzero().flatten()
    per_example = []
    for batch in tqdm(batches, desc="exact (edges)", unit="batch", leave=False):
        batch = batch.to(model.device)
        removed = ablated_run(model, batch, ablation, means)
        scores = torch.zeros(len(batch), exists.numel())
        for some in places.split(max(1, rows // len(batch))):
            # The first run cuts nothing: sums of as many terms in the same order, so that no effect is exactly 0.
            gates = torch.ones(len(some) + 1, exists.numel(), device=model.device)
            gates[torch.arange(1, len(some) + 1), some] = 0.0
            gates = gates.view(-1, *exists.shape)
            logits = run_edges(model, batch.clean_ids, batch.attention_mask, gates, removed.activations)
            whole, *cut = answer_loss(logits, batch).cpu()
            scores[:, some] = torch.stack(cut, dim=1) - whole[:, None]
        per_example.append(scores.view(-1, *exists.shape))
    kept = torch.cat(per_example)
    return EdgeAttribution("exact", ablation, model.nodes, reader_names(model), kept.double().mean(0), exists, kept)
