"""The nodes of a Hugging Face decoder, reached by plain module hooks.

A decoder with pre-normalisation adds what its parts write into one residual stream. The parts, its nodes, are the
token embedding (`input`), the attention heads `a{layer}.h{head}` and the MLPs `m{layer}`. What head h writes is
z_h W_O^h, with z_h the h-th block of the input of `o_proj`. Since <delta(z_h W_O^h), g> = <delta z_h, W_O^h^T g>,
everything here works on z itself: no head ever needs a tensor as wide as the model. Heads are query heads; with
grouped queries, z already holds one block for each of them.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from analysis.circuits.batch import last_real_position
from eval.errors import UserError


ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")

# Relative error allowed where a model must equal the sum of its nodes: rounding, of sums over a few hundred terms.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def node_names(layers: int, heads: int) -> tuple[str, ...]:
    """input, a0.h0, ..., a0.h{heads-1}, m0, a1.h0, ...: the order of every vector over nodes."""
    in_layers = [
        name for layer in range(layers) for name in [*(f"a{layer}.h{head}" for head in range(heads)), f"m{layer}"]
    ]
    return ("input", *in_layers)


def parse_node(name: str) -> tuple[int, int | None]:
    """(layer, head) of a head, (layer, None) of an MLP, (-1, None) of `input`.

    Raises UserError for anything else.
    """
    if name == "input":
        return -1, None
    match = re.fullmatch(r"(?:a(\d+)\.h(\d+))|(?:m(\d+))", name)
    if match is None:
        raise UserError(f"{name!r} is no node; nodes are input, a{{layer}}.h{{head}} and m{{layer}}")
    return (int(match[1]), int(match[2])) if match[3] is None else (int(match[3]), None)


@dataclass(frozen=True, eq=False)
class Activations:
    """What the nodes of a model with L layers and H heads wrote for B rows of T tokens.

    input: [B, T, d], the embeddings.
    heads: L tensors [B, T, H * head_dim], the inputs of `o_proj`; head h is the h-th block of head_dim.
    mlps: L tensors [B, T, d].

    Where activations replace others, B and T may each be 1: the same for every row, for every position.
    """

    input: torch.Tensor
    heads: list[torch.Tensor]
    mlps: list[torch.Tensor]

    def tensors(self) -> list[torch.Tensor]:
        """input, then heads and MLP of each layer: the order in which the model computes them."""
        in_layers = [tensor for pair in zip(self.heads, self.mlps, strict=True) for tensor in pair]
        return [self.input, *in_layers]


@dataclass(frozen=True, eq=False)
class Run:
    """logits: float32, [B, V] at the last real token, [B, T, V] if all positions were asked for; one dimension K in
    front if K sets of gates were run. activations: what was written after gating, of K * B rows (the K sets one after
    the other), or None if not recorded.
    """

    logits: torch.Tensor
    activations: Activations | None


@contextmanager
def hooks(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hooks that are in place while the context is open."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class CircuitModel:
    """A Llama, Mistral, Qwen2 or Qwen3 whose nodes can be read, replaced and switched.

    Takes the model as it is loaded (sdpa or eager attention, tied embeddings or not, float32 or bfloat16) and puts it
    into evaluation mode with frozen parameters: gradients flow to activations and gates only. Hooks are in place only
    during a run.

    nodes: their names, in the order of every vector over nodes (see `node_names`).
    index: position of each name in `nodes`.

    Construction proves on random tokens that the model is the sum of its nodes: the heads of a layer sum up to the
    output of `o_proj`; input, heads and MLPs sum up to the input of the final norm; with all gates at 1 a run equals
    the clean run and with all gates at 0 the corrupted one. Raises UserError, naming what fails, for any other model.
    """

    def __init__(self, model: PreTrainedModel):
        if not isinstance(model, PreTrainedModel) or model.config.model_type not in ARCHITECTURES:
            raise UserError(
                f"circuits need a Hugging Face model of type {', '.join(ARCHITECTURES)}, not {type(model).__name__}; "
                "merge a PEFT adapter into its model first"
            )
        self.model = model.eval().requires_grad_(False)
        self.backbone = model.model
        self.layers = list(self.backbone.layers)
        config = model.config
        self.heads = config.num_attention_heads
        self.key_value_heads = config.num_key_value_heads
        self.head_dim = self.layers[0].self_attn.head_dim
        self.width = config.hidden_size
        self.nodes = node_names(len(self.layers), self.heads)
        self.index = {name: position for position, name in enumerate(self.nodes)}
        _prove_decomposition(self)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """[B, T] token ids to [B, T, d] embeddings: what the node `input` writes."""
        return self.backbone.embed_tokens(ids)

    def gates(self, circuit: Iterable[str]) -> torch.Tensor:
        """[N] float32, 1 at the nodes of `circuit` and 0 elsewhere. Raises UserError for a node the model lacks."""
        gates = torch.zeros(len(self.nodes))
        for name in circuit:
            if name not in self.index:
                raise UserError(f"the model has no node {name!r}; its nodes are {self.nodes[0]} to {self.nodes[-1]}")
            gates[self.index[name]] = 1.0
        return gates.to(self.device)

    def run(
        self,
        ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        gates: torch.Tensor | None = None,
        replacement: Activations | None = None,
        embeddings: torch.Tensor | None = None,
        record: bool = False,
        all_positions: bool = False,
    ) -> Run:
        """One forward pass, in the caller's gradient mode.

        ids, attention_mask: [B, T], padded on either side.
        gates: [N], [B, N], or [K, B, N] or [K, 1, N] for K passes in one (N nodes). A node writes
            replacement + gate * (computed - replacement), exactly what it computed at 1 and exactly its replacement at
            0. What it computes depends on the nodes before it, gated as they are. Differentiable in `gates`. Keep
            them in float32 whatever the model's type: the interpolation is done in the wider of the two.
            Noising (knock out all but a circuit): `ids` clean, `replacement` of the corrupted run, gate 1 in the
            circuit. Denoising with pinned clean activations: `ids` corrupted, `replacement` of the clean run, gate
            1 - mask.
        replacement: for every node; needed if, and only if, there are gates.
        embeddings: [B, T, d] in place of `embed(ids)`, such as points on the way from the corrupted to the clean ones.
        record: return the activations; they are part of the graph if gradients are enabled.
        all_positions: logits of every position, in place of the last real token's.
        """
        if (gates is None) != (replacement is None):
            raise ValueError("gates and replacement belong together")
        current = self.embed(ids) if embeddings is None else embeddings
        sets = 1
        switch = None
        if gates is not None:
            switch = _Switch(self, gates, replacement, rows=len(ids))
            sets = switch.sets
            current = switch.input(current)
        recorded = Activations(current, [], []) if record else None
        mask = attention_mask.repeat(sets, 1)
        with self._hooked(switch, recorded):
            hidden = self.backbone(
                inputs_embeds=current,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
            ).last_hidden_state
        if not all_positions:
            hidden = hidden[torch.arange(len(hidden), device=hidden.device), last_real_position(mask)]
        logits = self.model.lm_head(hidden).float()
        if gates is not None and gates.ndim == 3:
            logits = logits.unflatten(0, (sets, len(ids)))
        return Run(logits, recorded)

    def record(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> Run:
        """A plain run without gradients, with what every node wrote."""
        with torch.no_grad():
            return self.run(ids, attention_mask, record=True)

    @contextmanager
    def _hooked(self, switch: "_Switch | None", recorded: Activations | None) -> Iterator[None]:
        """Gate and record heads and MLPs while the context is open."""
        handles = []
        if switch is not None or recorded is not None:
            for number, layer in enumerate(self.layers):

                def heads(_module, arguments, number=number):
                    z = arguments[0] if switch is None else switch.heads(arguments[0], number)
                    if recorded is not None:
                        recorded.heads.append(z)
                    return (z,)

                def mlp(_module, _arguments, output, number=number):
                    output = output if switch is None else switch.mlp(output, number)
                    if recorded is not None:
                        recorded.mlps.append(output)
                    return output

                handles.append(layer.self_attn.o_proj.register_forward_pre_hook(heads))
                handles.append(layer.mlp.register_forward_hook(mlp))
        with hooks(handles):
            yield


class _Switch:
    """Applies K sets of gates to what nodes computed, for B rows each."""

    def __init__(self, model: CircuitModel, gates: torch.Tensor, replacement: Activations, rows: int):
        count = len(model.nodes)
        if gates.shape[-1] != count or gates.ndim > 3 or (gates.ndim > 1 and gates.shape[-2] not in (1, rows)):
            raise ValueError(
                f"gates of shape {tuple(gates.shape)}; give [N], [B, N] or [K, B, N], N={count}, B={rows}"
            )
        gates = gates.float().reshape(-1, gates.shape[-2] if gates.ndim > 1 else 1, count)
        self.sets, self.rows = len(gates), rows
        self.replacement = replacement
        self.heads_shape = (model.heads, model.head_dim)
        self.input_gates = gates[..., 0, None, None]  # [K, B or 1, 1, 1]
        in_layers = gates[..., 1:].unflatten(-1, (len(model.layers), model.heads + 1))
        self.head_gates = in_layers[..., :-1, None].unsqueeze(2)  # [K, B or 1, 1, L, H, 1]
        self.mlp_gates = in_layers[..., -1, None].unsqueeze(2)  # [K, B or 1, 1, L, 1]

    def input(self, computed: torch.Tensor) -> torch.Tensor:
        """[B, T, d] embeddings to [K * B, T, d]."""
        mixed = _mix(self.replacement.input, computed.unsqueeze(0), self.input_gates)
        return mixed.expand(self.sets, self.rows, *mixed.shape[2:]).flatten(0, 1)

    def heads(self, computed: torch.Tensor, layer: int) -> torch.Tensor:
        replacement = self.replacement.heads[layer].unflatten(-1, self.heads_shape)
        blocks = computed.unflatten(-1, self.heads_shape).unflatten(0, (self.sets, self.rows))
        return _mix(replacement, blocks, self.head_gates[:, :, :, layer]).flatten(-2).flatten(0, 1)

    def mlp(self, computed: torch.Tensor, layer: int) -> torch.Tensor:
        computed = computed.unflatten(0, (self.sets, self.rows))
        return _mix(self.replacement.mlps[layer], computed, self.mlp_gates[:, :, :, layer]).flatten(0, 1)


def _mix(replacement: torch.Tensor, computed: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    """replacement + gates * (computed - replacement), in the wider of the two types, returned in the model's.

    `lerp` returns its ends exactly at 0 and at 1.
    """
    wide = torch.promote_types(gates.dtype, computed.dtype)
    return torch.lerp(replacement.to(wide), computed.to(wide), gates.to(wide)).to(computed.dtype)


def head_outputs(model: CircuitModel, layer: int, z: torch.Tensor) -> torch.Tensor:
    """[..., H * head_dim] inputs of `o_proj` to [..., H, d], what each head writes, in the type of `z`.

    d / head_dim times as large as z: for edges and for checks, never for nodes.
    """
    blocks = z.unflatten(-1, (model.heads, model.head_dim))
    weight = model.layers[layer].self_attn.o_proj.weight.unflatten(1, (model.heads, model.head_dim))
    return torch.einsum("...he,dhe->...hd", blocks, weight.to(z.dtype))


def _prove_decomposition(model: CircuitModel) -> None:
    """Check the construction's claims on random tokens; raise UserError for the first that fails."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.model.config.vocab_size, (2, 2, 6), generator=generator).to(model.device)
    clean_ids, corrupted_ids = ids
    mask = torch.ones_like(clean_ids)
    mask[1, :2] = 0
    attention, final = [], []
    watched: list[nn.Module] = [layer.self_attn.o_proj for layer in model.layers]
    handles = [module.register_forward_hook(lambda _m, _a, output: attention.append(output)) for module in watched]
    handles.append(model.backbone.norm.register_forward_pre_hook(lambda _m, arguments: final.append(arguments[0])))
    with hooks(handles):
        clean = model.record(clean_ids, mask)
    corrupted = model.record(corrupted_ids, mask)
    real = mask.bool()

    for layer, (z, written) in enumerate(zip(clean.activations.heads, attention, strict=True)):
        total = head_outputs(model, layer, z.float()).sum(-2)
        bias = model.layers[layer].self_attn.o_proj.bias
        total = total if bias is None else total + bias
        _require_equal(model, total[real], written[real], f"the heads of layer {layer} do not sum up to its attention")
    total = sum(
        (part.float() for part in (*attention, *clean.activations.mlps)), start=clean.activations.input.float()
    )
    _require_equal(model, total[real], final[0][real], "embedding, attention and MLPs do not sum up to the residual")

    gates = torch.stack([torch.ones(len(model.nodes)), torch.zeros(len(model.nodes))]).unsqueeze(1).to(model.device)
    with torch.no_grad():
        both = model.run(clean_ids, mask, gates=gates, replacement=corrupted.activations)
    _require_equal(model, both.logits[0], clean.logits, "a run with all gates at 1 is not the clean run")
    _require_equal(model, both.logits[1], corrupted.logits, "a run with all gates at 0 is not the corrupted run")


def _require_equal(model: CircuitModel, actual: torch.Tensor, expected: torch.Tensor, failure: str) -> None:
    expected = expected.float()
    error, size = (actual - expected).norm().item(), expected.norm().item()
    # Not a quotient: in a planted circuit whole layers write nothing. Written so that NaN fails.
    if not error <= TOLERANCE[model.dtype] * size:
        raise UserError(
            f"{failure} (off by {error:.2g} of {size:.2g}): this {model.model.config.model_type} model is not the "
            "plain decoder that circuits are defined for; use the Hugging Face implementation with unmodified layers"
        )
