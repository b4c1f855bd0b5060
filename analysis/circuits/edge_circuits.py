"""How much of a model's behaviour a circuit of edges keeps.

Along an edge u -> r that is kept, r reads what u writes in this run; along any other, what u writes when it is
knocked out. So each reader has a residual stream of its own: the common one, plus a'_u - a_u of every writer that it
is cut off from. A circuit that keeps all edges of some nodes and none of the others is the node circuit of
`faithfulness.py`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from analysis.circuits.attribution import check_choice
from analysis.circuits.batch import Batch, answer_loss
from analysis.circuits.edges import EdgeAttribution, existing_edges, reader_names
from analysis.circuits.faithfulness import (
    RANKINGS,
    SHARES,
    Curve,
    LogitDifferences,
    differences_of_circuits,
    summarise,
)
from analysis.circuits.nodes import Activations, CircuitModel, Run, head_outputs, hooks
from eval.errors import UserError


def edge_faithfulness_curve(
    model: CircuitModel,
    batches: Sequence[Batch],
    edges: EdgeAttribution,
    shares: Sequence[float] = SHARES,
    ranking: str = "signed",
    ablation: str = "counterfactual",
    means: Activations | None = None,
    threshold: float = 0.8,
    resamples: int = 1000,
    seed: int = 0,
    rows: int = 64,
) -> Curve:
    """The curve of the best int(k * number of edges) edges for each k in `shares`; sizes count edges.

    Nothing is pruned: an edge from which no kept path leads to the prompt or to the logits changes nothing. The edges
    of `input` are ranked with the others (`input_policy` "ranked"). Everything else as in `faithfulness_curve`. Memory
    goes with rows * N * T * d.
    """
    check_choice("ranking", ranking, RANKINGS)
    if edges.writers != model.nodes or edges.readers != reader_names(model):
        raise UserError("the edges were scored on a model of another shape; score them on this one")
    values = edges.scores.abs() if ranking == "absolute" else edges.scores
    order = values.masked_fill(~edges.exists, -torch.inf).flatten().argsort(descending=True, stable=True)
    sizes = [int(share * int(edges.exists.sum())) for share in shares]
    gates = torch.zeros(len(sizes), edges.exists.numel())
    for row, size in enumerate(sizes):
        gates[row, order[:size]] = 1.0
    differences = edge_logit_differences(model, batches, gates.view(-1, *edges.exists.shape), ablation, means, rows)
    return summarise(differences, shares, sizes, "ranked", ranking, ablation, threshold, resamples, seed)


def edge_logit_differences(
    model: CircuitModel,
    batches: Sequence[Batch],
    gates: torch.Tensor,
    ablation: str = "counterfactual",
    means: Activations | None = None,
    rows: int = 64,
) -> LogitDifferences:
    """Run K circuits, [K, N, R] gates over edges, on every example."""
    gates = gates.to(model.device)

    def circuits(batch: Batch, _clean: torch.Tensor, removed: Run) -> torch.Tensor:
        logits = (
            run_edges(model, batch.clean_ids, batch.attention_mask, some, removed.activations)
            for some in gates.split(max(1, rows // len(batch)))
        )
        return torch.cat([-answer_loss(of_some, batch) for of_some in logits])

    return differences_of_circuits(model, batches, circuits, ablation, means)


def run_edges(
    model: CircuitModel,
    ids: torch.Tensor,
    attention_mask: torch.Tensor,
    gates: torch.Tensor,
    replacement: Activations,
) -> torch.Tensor:
    """[K, B, V] logits at the last real token of K circuits, without gradients.

    ids, attention_mask: [B, T]. gates: [K, N, R], 1 at kept edges, 0 elsewhere, anything between them for a mixture;
    at pairs that are no edge they have no effect. replacement: what nodes write when they are knocked out.
    """
    sets, rows, length = len(gates), len(ids), ids.shape[1]
    with torch.no_grad():
        run = _EdgeRun(model, gates, replacement, rows, length)
        with run.hooked():
            logits = model.run(ids.repeat(sets, 1), attention_mask.repeat(sets, 1), embeddings=run.start(ids)).logits
    return logits.unflatten(0, (sets, rows))


class _EdgeRun:
    """Hooks that give each reader its own residual stream.

    changes: [K * B, N, T, d] float32, a'_u - a_u of the writers that have been computed.
    """

    def __init__(self, model: CircuitModel, gates: torch.Tensor, replacement: Activations, rows: int, length: int):
        self.model, self.replacement, self.rows = model, replacement, rows
        cut = (1.0 - gates.float()) * existing_edges(model).to(gates.device)
        self.cut = dict(zip(reader_names(model), cut.unbind(-1), strict=True))  # [K, N] of each reader
        self.sets = len(gates)
        shape = (self.sets * rows, len(model.nodes), length, model.width)
        self.changes = torch.zeros(shape, device=model.device)
        self.residual: torch.Tensor | None = None

    def start(self, ids: torch.Tensor) -> torch.Tensor:
        embeddings = self.model.embed(ids)
        self.changes[:, 0] = self.repeated(self.replacement.input.float() - embeddings.float())
        return embeddings.repeat(self.sets, 1, 1)

    def repeated(self, change: torch.Tensor) -> torch.Tensor:
        """[B or 1, ...] to [K * B, ...]."""
        return change.expand(self.rows, *change.shape[1:]).repeat(self.sets, *[1] * (change.ndim - 1))

    def residuals(self, readers: Sequence[str]) -> torch.Tensor:
        """[K * B, readers, T, d] in the model's type."""
        cut = torch.stack([self.cut[reader] for reader in readers], dim=1).unsqueeze(1)  # [K, 1, readers, N]
        changes = self.changes.unflatten(0, (self.sets, self.rows))
        shift = (cut @ changes.flatten(-2)).flatten(0, 1).unflatten(-1, changes.shape[-2:])
        return (self.residual.float().unsqueeze(1) + shift).to(self.residual.dtype)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        handles = []
        for number, layer in enumerate(self.model.layers):
            attention, first = layer.self_attn, 1 + number * (self.model.heads + 1)
            query = [f"a{number}.h{head}.q" for head in range(self.model.heads)]
            groups = range(self.model.key_value_heads)
            handles += [
                layer.input_layernorm.register_forward_pre_hook(self.keep_residual),
                layer.post_attention_layernorm.register_forward_pre_hook(self.keep_residual),
                self.read(attention.q_proj, layer.input_layernorm, query),
                self.read(attention.k_proj, layer.input_layernorm, [f"a{number}.kv{group}.k" for group in groups]),
                self.read(attention.v_proj, layer.input_layernorm, [f"a{number}.kv{group}.v" for group in groups]),
                attention.o_proj.register_forward_pre_hook(self.write_heads(number, first)),
                layer.mlp.register_forward_pre_hook(self.read_mlp(layer.post_attention_layernorm, f"m{number}")),
                layer.mlp.register_forward_hook(self.write_mlp(number, first + self.model.heads)),
            ]
        handles.append(self.model.backbone.norm.register_forward_pre_hook(self.read_logits))
        with hooks(handles):
            yield

    def keep_residual(self, _module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        self.residual = arguments[0]

    def read(self, projection: nn.Linear, norm: nn.Module, readers: Sequence[str]):
        """Each head's part of the projection from the head's own residual stream."""

        def hook(_module: nn.Module, _arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            weight = projection.weight.unflatten(0, (len(readers), -1))
            # `forward` and not a call: the norm's own hook keeps the common residual stream.
            projected = torch.einsum("brtd,red->btre", norm.forward(self.residuals(readers)), weight).flatten(2)
            return projected if projection.bias is None else projected + projection.bias

        return projection.register_forward_hook(hook)

    def read_mlp(self, norm: nn.Module, reader: str):
        return lambda _module, _arguments: (norm.forward(self.residuals([reader]).squeeze(1)),)

    def read_logits(self, _module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        self.residual = arguments[0]
        return (self.residuals(["logits"]).squeeze(1),)

    def write_heads(self, layer: int, first: int):
        def hook(_module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            change = self.repeated(self.replacement.heads[layer].float()) - arguments[0].float()
            outputs = head_outputs(self.model, layer, change).movedim(-2, 1)
            self.changes[:, first : first + self.model.heads] = outputs

        return hook

    def write_mlp(self, layer: int, place: int):
        def hook(_module: nn.Module, _arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            self.changes[:, place] = self.repeated(self.replacement.mlps[layer].float()) - output.float()

        return hook
