"""Exact patching: the loss with one node knocked out, for every node, at a fraction of as many whole runs.

A node that is knocked out changes nothing before itself, neither in earlier layers nor at earlier positions. So the
clean run is kept, and the copies of an example in which one node each is knocked out enter where their node writes:
in one sweep through the layers, heads join behind the attention of their layer and MLPs behind it, and only positions
from the first on at which the two prompts differ are run again, on the clean keys and values of those before.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from analysis.circuits.batch import Batch, last_real_position
from analysis.circuits.nodes import Activations, CircuitModel, head_outputs, hooks
from eval.errors import UserError


# What answers to an explicit mask of every query and key.
ATTENTION = ("sdpa", "eager")


def exact_patching(model: CircuitModel, batch: Batch, replacement: Activations, rows: int = 64) -> torch.Tensor:
    """[B, N] changes of the loss when each node alone is knocked out: activation patching (noising).

    replacement: what nodes write when they are knocked out (`ablated_run`). rows: at most as many copies of examples
    at once, at least one for each node of one layer's part. A node whose writing does not change scores exactly 0.
    Memory goes with rows * T * d. Without gradients. Raises UserError for an attention that takes no mask.
    """
    used = model.model.config._attn_implementation
    if used not in ATTENTION:
        raise UserError(f"exact patching masks attention itself, which {used} does not take; load the model with sdpa")
    count = len(model.nodes)
    size = max(1, rows // count)
    scores = []
    with torch.no_grad():
        for first in range(0, len(batch), size):
            places = slice(first, first + size)
            part, written = _without_padding(batch.select(places), _rows_of(replacement, places))
            clean = _CleanRun(model, part, written)
            of_part = torch.zeros(len(part), count, device=model.device)
            at_once = max(1, rows // len(part))
            for start in range(0, count, at_once):
                for examples, nodes, losses in _sweep(model, part, clean, range(start, min(start + at_once, count))):
                    of_part[examples, nodes] = losses - clean.losses[examples]
            scores.append(of_part)
    return torch.cat(scores)


def _rows_of(replacement: Activations, places: slice) -> Activations:
    """Of some examples; what is the same for all stays so."""
    kept = [tensor if len(tensor) == 1 else tensor[places] for tensor in replacement.tensors()]
    return Activations(kept[0], kept[1::2], kept[2::2])


def _without_padding(part: Batch, replacement: Activations) -> tuple[Batch, Activations]:
    """Without the positions that are padding in every row: positions count real tokens, so that nothing changes."""
    real = part.attention_mask.bool().any(0)
    cut = Batch(
        part.clean_ids[:, real],
        part.corrupted_ids[:, real],
        part.attention_mask[:, real],
        part.answer,
        part.wrong_answer,
    )
    kept = [tensor if tensor.shape[1] == 1 != len(real) else tensor[:, real] for tensor in replacement.tensors()]
    return cut, Activations(kept[0], kept[1::2], kept[2::2])


@dataclass(frozen=True)
class _Rows:
    """R copies of examples: hidden [R, T', d] from the start position on; whose they are, and without which node."""

    hidden: torch.Tensor
    examples: torch.Tensor
    nodes: torch.Tensor

    def joined(self, others: "_Rows") -> "_Rows":
        return _Rows(*(torch.cat(pair) for pair in zip(vars(self).values(), vars(others).values(), strict=True)))


class _CleanRun:
    """What a sweep continues: E examples run whole once.

    start: first position that any knocked-out node changes. losses: [E]. residuals, middles: L tensors [E, T', d]
    before and behind the attention of a layer; last: [E, T', d], behind all layers. keys, values: L tensors
    [E, groups, start, head_dim]. masks: [E, 1, T', T] of each layer. changes: what nodes write when knocked out, less
    what they write, from `start` on, of all tensors of `Activations`.
    """

    def __init__(self, model: CircuitModel, batch: Batch, replacement: Activations):
        self.residuals, self.middles, self.masks = [], [], []
        self.keys, self.values = [], []
        recorder = _Recorder(self)
        handles = [model.backbone.norm.register_forward_pre_hook(recorder.keep_last)]
        for layer in model.layers:
            handles.append(layer.register_forward_pre_hook(recorder.keep_start, with_kwargs=True))
            handles.append(layer.post_attention_layernorm.register_forward_pre_hook(recorder.keep_middle))
        with hooks(handles):
            written = model.run(batch.clean_ids, batch.attention_mask, record=True).activations
        self.start = _first_change(written.input, replacement.input)
        self.changes = [
            (one.float() - other.float())[:, self.start :]
            for one, other in zip(replacement.tensors(), written.tensors(), strict=True)
        ]
        self.residuals, self.middles = ([x[:, self.start :] for x in kept] for kept in (self.residuals, self.middles))
        self.keys, self.values = ([x[:, :, : self.start] for x in kept] for kept in (self.keys, self.values))
        self.masks = [mask[:, :, self.start :] for mask in self.masks]
        self.positions = tuple(part[:, self.start :] for part in recorder.positions)
        self.last = recorder.last[:, self.start :]
        self.losses = _losses(model, batch, self.start, self.last, torch.arange(len(batch), device=model.device))


class _Recorder:
    """Hooks of the clean run; takes the place of the cache that attention hands its keys and values to."""

    def __init__(self, run: _CleanRun):
        self.run = run

    def keep_start(self, _layer, arguments, options):
        hidden, mask = arguments[0], options["attention_mask"]
        if mask is None:  # sdpa has its own causal mask where there is neither padding nor a window
            length = hidden.shape[1]
            mask = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril()[None, None]
        self.run.residuals.append(hidden)
        self.run.masks.append(mask.expand(len(hidden), *mask.shape[1:]))
        self.positions = tuple(part.expand(len(hidden), *part.shape[1:]) for part in options["position_embeddings"])
        return arguments, options | {"past_key_values": self}

    def update(self, keys, values, *_):
        self.run.keys.append(keys)
        self.run.values.append(values)
        return keys, values

    def keep_middle(self, _norm, arguments):
        self.run.middles.append(arguments[0])

    def keep_last(self, _norm, arguments):
        self.last = arguments[0]


@dataclass(frozen=True)
class _Continued:
    """A cache that puts clean keys and values before those of the copies."""

    keys: torch.Tensor
    values: torch.Tensor

    def update(self, keys, values, *_):
        return torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)


def _first_change(written: torch.Tensor, replacement: torch.Tensor) -> int:
    """The first position at which embeddings differ in any row; 0 for a replacement that knows no positions.

    Embeddings alone: two runs of one prompt differ by rounding further up.
    """
    if replacement.shape[1] != written.shape[1]:
        return 0
    changed = (written != replacement).any(0).any(-1).nonzero().flatten()
    return int(changed[0]) if len(changed) else written.shape[1] - 1


def _sweep(
    model: CircuitModel, batch: Batch, clean: _CleanRun, nodes: range
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield (examples, nodes, losses) of the copies in which one of `nodes` is knocked out, if that changes anything.

    `nodes` are consecutive in the model's order, which is that in which they are computed.
    """
    rows = None
    per_layer = model.heads + 1
    for number in range(max(0, (nodes.start - 1) // per_layer), len(model.layers)):
        if number == 0 and 0 in nodes:
            rows = _joining(rows, clean.residuals[0], clean.changes[0].unsqueeze(2), range(1))
        first = 1 + number * per_layer
        rows = None if rows is None else _through_attention(model, clean, rows, number)
        heads = _common(nodes, range(first, first + model.heads))
        if heads:
            change = head_outputs(model, number, clean.changes[1 + 2 * number])
            change = change[:, :, heads.start - first : heads.stop - first]
            rows = _joining(rows, clean.middles[number], change, heads)
        rows = None if rows is None else _through_mlp(model, rows, number)
        if first + model.heads in nodes:
            behind = clean.residuals[number + 1] if number + 1 < len(model.layers) else clean.last
            place = first + model.heads
            rows = _joining(rows, behind, clean.changes[2 + 2 * number].unsqueeze(2), range(place, place + 1))
    if rows is not None:
        yield rows.examples, rows.nodes, _losses(model, batch, clean.start, rows.hidden, rows.examples)


def _common(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))


def _joining(rows: _Rows | None, clean: torch.Tensor, change: torch.Tensor, nodes: range) -> _Rows | None:
    """`rows`, and a copy of each example for each node that changes anything.

    clean: [E, T', d] at this place. change: [E or 1, T' or 1, n, d] of the n nodes.
    """
    change = change.expand(len(clean), clean.shape[1], *change.shape[2:]).movedim(2, 1)  # [E, n, T', d]
    examples, places = change.flatten(2).any(-1).nonzero(as_tuple=True)
    if not len(examples):
        return rows
    hidden = (clean[examples].float() + change[examples, places]).to(clean.dtype)
    joining = _Rows(hidden, examples, places + nodes.start)
    return joining if rows is None else rows.joined(joining)


def _through_attention(model: CircuitModel, clean: _CleanRun, rows: _Rows, number: int) -> _Rows:
    layer, of = model.layers[number], rows.examples
    written, _ = layer.self_attn(
        hidden_states=layer.input_layernorm(rows.hidden),
        position_embeddings=tuple(part[of] for part in clean.positions),
        attention_mask=clean.masks[number][of],
        past_key_values=_Continued(clean.keys[number][of], clean.values[number][of]),
    )
    return _Rows(rows.hidden + written, of, rows.nodes)


def _through_mlp(model: CircuitModel, rows: _Rows, number: int) -> _Rows:
    layer = model.layers[number]
    written = layer.mlp(layer.post_attention_layernorm(rows.hidden))
    return _Rows(rows.hidden + written, rows.examples, rows.nodes)


def _losses(
    model: CircuitModel, batch: Batch, start: int, hidden: torch.Tensor, examples: torch.Tensor
) -> torch.Tensor:
    """[R] `answer_loss` of [R, T', d], from two logits alone: a vocabulary is as wide as several layers."""
    last = last_real_position(batch.attention_mask)[examples] - start
    hidden = model.backbone.norm(hidden[torch.arange(len(last), device=last.device), last]).float()
    head = model.model.lm_head
    tokens = torch.stack([batch.wrong_answer, batch.answer])[:, examples]
    logits = torch.einsum("rd,srd->sr", hidden, head.weight[tokens].float())
    if head.bias is not None:
        logits = logits + head.bias[tokens].float()
    return logits[0] - logits[1]
