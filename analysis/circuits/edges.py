"""How much each connection between two nodes does for a task (edge attribution patching).

Every node writes into the residual stream; what reads it there are the queries of each head, the keys and values of
each key-value head, the MLPs and the logits. The score of the edge u -> r is <J d_u, dL/dy_r>: d_u is the change of
what u writes when it is knocked out, y_r what r computes, and J the derivative of y_r with respect to the residual
stream, through the RMSNorm in front of r. Summed over its readers, a node's edges give its node score exactly.

With W the projection of r and dL/dy_r taken at its output (behind it lie rotary embeddings, grouped heads and, in
Qwen3, the norm of queries and keys, all in the gradient already), the score is <d_u, J_norm^T W^T dL/dy_r>. So each
reader becomes one vector [T, d] in the residual stream, each writer another, and all scores are one matrix product.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from analysis.circuits.ablation import ablated_run, mean_activations
from analysis.circuits.attribution import (
    RULES,
    Points,
    check_choice,
    check_options,
    differences,
    gradient_run,
    sublayers,
)
from analysis.circuits.batch import Batch, answer_loss
from analysis.circuits.nodes import Activations, CircuitModel, Run, head_outputs, hooks


EDGE_METHODS = ("nap", "nap-ig-inputs", "nap-ig-activations")

# Bytes that the changes of all writers of the examples in work may take.
MEMORY = 2**30


@dataclass(frozen=True, eq=False)
class EdgeAttribution:
    """writers: N nodes. readers: R names, `a{layer}.h{head}.q`, `a{layer}.kv{group}.k`, `a{layer}.kv{group}.v`,
    `m{layer}` and `logits`, in the order in which the model computes them.

    scores: [N, R] float64, mean over examples, 0 where there is no edge. exists: [N, R] bool, u comes before r.
    per_example: [E, N, R] float32, or None if not asked for.
    """

    method: str
    ablation: str
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    scores: torch.Tensor
    exists: torch.Tensor
    per_example: torch.Tensor | None

    def of_existing(self) -> torch.Tensor:
        """[E, M] of every example, for the M pairs that are edges."""
        return self.per_example[:, self.exists]


def attribute_edges(
    model: CircuitModel,
    batches: Sequence[Batch],
    method: str = "nap-ig-inputs",
    ablation: str = "counterfactual",
    steps: int = 5,
    rule: str = "left",
    means: Activations | None = None,
    per_example: bool = False,
) -> EdgeAttribution:
    """Score every edge by one of EDGE_METHODS; `exact_edges.patch_edges` cuts them one by one.

    nap: EAP (Syed et al. 2023, arXiv 2310.10348). nap-ig-inputs: EAP-IG (Hanna et al. 2024, arXiv 2403.17806).
    nap-ig-activations: the gradient is averaged while the writer's sub-layer moves from knocked out to clean, as for
        nodes; as many backward passes for each step as the model has sub-layers.
    ablation, steps, rule, means: as in `attribute`.
    per_example: keep the scores of each example, N * R numbers each.

    Raises UserError for an unknown choice or no examples.
    """
    check_choice("method", method, EDGE_METHODS)
    check_options(method, ablation, steps, rule, batches)
    if ablation == "mean" and means is None:
        means = mean_activations(model, batches)
    points = [(1.0, 1.0)] if method == "nap" else RULES[rule](steps)
    score = _edge_scores_along_activations if method == "nap-ig-activations" else _edge_scores
    readers, exists = reader_names(model), existing_edges(model)
    total = torch.zeros(exists.shape, dtype=torch.float64)
    kept = []
    for batch in tqdm(batches, desc=f"{method} (edges)", unit="batch", leave=False):
        for part in batch.to(model.device).split(_examples_at_once(model, batch)):
            scores = score(model, part, ablated_run(model, part, ablation, means), points).cpu()
            total += scores.double().sum(0)
            if per_example:
                kept.append(scores)
    examples = sum(len(batch) for batch in batches)
    return EdgeAttribution(
        method, ablation, model.nodes, readers, total / examples, exists, torch.cat(kept) if per_example else None
    )


def reader_names(model: CircuitModel) -> tuple[str, ...]:
    names = []
    for layer in range(len(model.layers)):
        names += [f"a{layer}.h{head}.q" for head in range(model.heads)]
        names += [f"a{layer}.kv{group}.{kind}" for kind in "kv" for group in range(model.key_value_heads)]
        names.append(f"m{layer}")
    return (*names, "logits")


def existing_edges(model: CircuitModel) -> torch.Tensor:
    """[N, R] bool: the writers that come before a reader are the first so many nodes."""
    before = [count for count, size in _reader_blocks(model) for _ in range(size)]
    return torch.arange(len(model.nodes))[:, None] < torch.tensor(before)


def _reader_blocks(model: CircuitModel) -> Iterator[tuple[int, int]]:
    """(number of writers before, number of readers) of each attention and MLP in turn, and of the logits."""
    for layer in range(len(model.layers)):
        start = 1 + layer * (model.heads + 1)
        yield start, model.heads + 2 * model.key_value_heads
        yield start + model.heads, 1
    yield len(model.nodes), 1


def _examples_at_once(model: CircuitModel, batch: Batch) -> int:
    length = batch.clean_ids.shape[1]
    return max(1, MEMORY // (4 * len(model.nodes) * length * model.width))


def _edge_scores(model: CircuitModel, batch: Batch, removed: Run, points: Points) -> torch.Tensor:
    """[B, N, R], the gradient averaged over embeddings at `points` between corrupted (0) and clean (1)."""
    clean = model.record(batch.clean_ids, batch.attention_mask).activations
    writers = writer_changes(model, differences(removed.activations, clean))
    scores = torch.zeros(len(batch), len(model.nodes), len(reader_names(model)), device=model.device)
    for alpha, weight in points:
        # At alpha = 1 nothing of `removed` enters: with mean and zero ablation it has no embeddings of its own.
        start = clean.input if alpha == 1 else torch.lerp(removed.activations.input, clean.input, alpha)
        first = 0
        for (count, size), vectors in zip(_reader_blocks(model), reader_vectors(model, batch, start), strict=True):
            products = writers[:, :count].flatten(2) @ vectors.flatten(2).transpose(1, 2)
            scores[:, :count, first : first + size] += weight * products / len(points)
            first += size
    return scores


def _edge_scores_along_activations(model: CircuitModel, batch: Batch, removed: Run, points: Points) -> torch.Tensor:
    """[B, N, R], the gradient averaged while the writer's sub-layer is at `points`, everything before it clean."""
    clean = model.record(batch.clean_ids, batch.attention_mask).activations
    writers = writer_changes(model, differences(removed.activations, clean))
    scores = torch.zeros(len(batch), len(model.nodes), len(reader_names(model)), device=model.device)
    for part in sublayers(model):
        for alpha, weight in points:
            gates = torch.ones(len(model.nodes), device=model.device)
            gates[part] = alpha
            gated = {"gates": gates, "replacement": removed.activations}
            first = 0
            for (count, size), vectors in zip(
                _reader_blocks(model), reader_vectors(model, batch, clean.input, **gated), strict=True
            ):
                if count > part.start:
                    products = writers[:, part].flatten(2) @ vectors.flatten(2).transpose(1, 2)
                    scores[:, part, first : first + size] += weight * products / len(points)
                first += size
    return scores


def writer_changes(model: CircuitModel, change: Sequence[torch.Tensor]) -> torch.Tensor:
    """[B, N, T, d] float32: d_u in the residual stream, from the changes of `input`, z and MLP of each layer."""
    parts = [change[0].unsqueeze(1)]
    for layer, (z, mlp) in enumerate(zip(change[1::2], change[2::2], strict=True)):
        parts += [head_outputs(model, layer, z).movedim(-2, 1), mlp.unsqueeze(1)]
    return torch.cat(parts, dim=1)


def reader_vectors(
    model: CircuitModel, batch: Batch, embeddings: torch.Tensor, **gated: Any
) -> Iterator[torch.Tensor]:
    """Yield [B, readers, T, d] float32 for each block of readers: dL/dx through this reader alone, x the residual.

    gated: `gates` and `replacement` of the run in which slopes are taken.
    """
    seen: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}
    layers = model.layers
    norms = [norm for layer in layers for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
    projections = [
        projection
        for layer in layers
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
    ]

    def keep(module: nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen[module] = (arguments[0], output)

    watched = [*norms, *projections, model.backbone.norm]
    with hooks([module.register_forward_hook(keep) for module in watched]):
        run = gradient_run(model, batch, embeddings.detach().requires_grad_(), **gated)
    wanted = [seen[projection][1] for projection in projections]
    wanted += [seen[layer.post_attention_layernorm][1] for layer in layers]
    wanted.append(seen[model.backbone.norm][0])
    slopes = torch.autograd.grad(answer_loss(run.logits, batch).sum(), wanted)
    for number, layer in enumerate(layers):
        places = range(3 * number, 3 * number + 3)
        by_head = [_through_projection(projections[place], slopes[place].float(), model.head_dim) for place in places]
        norm = layer.input_layernorm
        yield _through_norm(norm, seen[norm][0], torch.cat(by_head, dim=1))
        norm = layer.post_attention_layernorm
        yield _through_norm(norm, seen[norm][0], slopes[len(projections) + number].float().unsqueeze(1))
    yield slopes[-1].float().unsqueeze(1)


def _through_projection(projection: nn.Linear, slope: torch.Tensor, head_dim: int) -> torch.Tensor:
    """W_h^T g_h of each head: [B, T, heads * head_dim] to [B, heads, T, d]."""
    weight = projection.weight.float().unflatten(0, (-1, head_dim))
    return torch.einsum("bthe,hed->bhtd", slope.unflatten(-1, (-1, head_dim)), weight)


def _through_norm(norm: nn.Module, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """J^T g of y = weight * x / r with r = sqrt(mean(x^2) + eps): g' / r - x mean(x g') / r^3 with g' = weight * g.

    x: [B, T, d], slope: [B, R, T, d].
    """
    x = x.detach().float().unsqueeze(1)
    inverse = (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
    scaled = slope * norm.weight.float()
    return inverse * scaled - x * inverse.pow(3) * (x * scaled).mean(-1, keepdim=True)
