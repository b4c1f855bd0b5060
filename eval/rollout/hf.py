"""Rollouts through a transformers model, for one set of weights or for a whole population in one batch."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import Cache
from transformers.masking_utils import sdpa_mask

from eval.errors import UserError
from eval.rollout.base import Completion, Kind, LowRankMember, Member, Messages, Sampling
from eval.rollout.cache import RoomyLayer
from eval.rollout.chat import completion, end_token_ids, padding_id, prompt_ids
from eval.rollout.loading import open_model, require_finite, require_finite_logits
from eval.rollout.noise import completion_key, gumbel
from eval.rollout.population import Factors, Overlays, stacked_weights, supports


# Rows leave the batch once a quarter of it is finished: earlier, copying the cache costs more than it saves.
SHRINK_AT = 0.75


class HFEngine:
    """A `RolloutEngine` on a transformers model: the model's own forward, our decoding loop.

    Members are evaluated together, as many at a time as `population_bytes` has room for (their weights and their share
    of the key/value cache), at worst one after the other. The model's own parameters are never written, so they are
    pristine by construction.

    Limits: decoder-only models with full attention whose parameters sit in Linear, Embedding and RMSNorm modules
    (Llama, Qwen2, Qwen3, Mistral without a sliding window).
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, population_bytes: int = 4 * 1024**3
    ):
        if not supports(model):
            raise UserError(
                f"{type(model).__name__} has parameters outside Linear, Embedding and RMSNorm modules; "
                "the Hugging Face engine runs Llama, Qwen2, Qwen3 and Mistral"
            )
        self.model, self.tokenizer, self.population_bytes = model, tokenizer, population_bytes
        ends = end_token_ids(tokenizer, model.generation_config)
        self.end_ids = torch.tensor(ends, device=model.device)
        self.pad_id = padding_id(tokenizer, ends, len(cast(nn.Embedding, model.get_input_embeddings()).weight))

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        base: str | Path | None = None,
        **options,
    ) -> "HFEngine":
        """Load a local checkpoint folder, a hub model, or a LoRA adapter of `base` (see `open_model`).

        On the GPU if there is one and no `device` is given.
        """
        model, tokenizer = open_model(path, dtype, base)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        cast(nn.Module, model).to(device)
        return cls(model.eval(), tokenizer, **options)

    def named_weights(self) -> dict[str, torch.Tensor]:
        return {name: parameter.data for name, parameter in self.model.named_parameters()}

    @torch.no_grad()
    def set_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        own = self.named_weights()
        for name, weight in weights:
            if name not in own:
                raise UserError(f"the model has no parameter {name!r}; its checkpoint belongs to another architecture")
            require_finite({name: weight}, "the model to be run")
            own[name].copy_(weight)

    def encode(self, prompts: Sequence[Messages]) -> list[list[int]]:
        """See `eval.rollout.chat.prompt_ids`."""
        return prompt_ids(self.tokenizer, prompts)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Messages],
        sampling: Sampling,
        members: Sequence[Member | None] = (None,),
        log_probs: bool = False,
    ) -> list[list[list[Completion]]]:
        """Completions indexed [member][prompt][sample]; see `RolloutEngine`."""
        prompt_tokens = self.encode(prompts)
        completions: list[list[list[Completion]]] = []
        perturbed = [member for member in members if member is not None]
        with _decoding(self.model):
            if len(perturbed) < len(members):
                # The pristine model runs without stacked weights; among others it would break the order.
                if len(members) > 1:
                    raise ValueError("ask for the pristine model (None) and for perturbed members in separate calls")
                return self._generate_group(prompt_tokens, sampling, members, log_probs)
            for group in self._groups(prompt_tokens, sampling, perturbed):
                with stacked_weights(self.model, len(group), self._overlays(group)):
                    completions += self._generate_group(prompt_tokens, sampling, group, log_probs)
        return completions

    def _groups(
        self, prompt_tokens: list[list[int]], sampling: Sampling, members: list[Member]
    ) -> Iterator[list[Member]]:
        """Members that fit in memory together."""
        weights = sum(self._overlay_bytes(members[0], *item) for item in self.named_weights().items())
        layers: Any = self.model.get_decoder().layers
        width = self.model.config.num_key_value_heads * layers[0].self_attn.head_dim
        per_token = 2 * self.model.config.num_hidden_layers * width * self.model.dtype.itemsize
        tokens = max(map(len, prompt_tokens)) + sampling.max_new_tokens
        per_member = weights + len(prompt_tokens) * sampling.samples * tokens * per_token
        size = max(1, int(self.population_bytes // per_member))
        # Groups of equal size rather than full ones and a small rest.
        groups = -(-len(members) // size)
        size = -(-len(members) // groups)
        for start in range(0, len(members), size):
            yield members[start : start + size]

    def _overlays(self, members: list[Member]) -> Overlays:
        """By parameter name what the members have instead of it, in the model's dtype.

        Low-rank overlays stay products if all members have them, and frozen parameters need nothing. Otherwise
        pristine weight plus each member's delta, [members, *shape].
        """
        overlays = {}
        low_rank = [member for member in members if isinstance(member, LowRankMember)]
        for name, weight in self.named_weights().items():
            kinds = {_kind(member, name, weight) for member in members}
            if kinds == {"low_rank"}:
                factors = [member.factors(name, weight) for member in low_rank]
                a, b = (torch.stack(side).to(weight.dtype) for side in zip(*factors, strict=True))
                overlays[name] = Factors(a, b)
            elif kinds != {"frozen"}:
                overlays[name] = stack = weight.new_empty(len(members), *weight.shape)
                for row, member in zip(stack, members, strict=True):
                    row.copy_(weight.float() + member.delta(name, weight))
        return overlays

    def _overlay_bytes(self, member: Member, name: str, weight: torch.Tensor) -> int:
        """Memory that one member's overlay on a parameter takes."""
        kind = _kind(member, name, weight)
        if kind == "low_rank" and isinstance(member, LowRankMember):
            return member.rank * sum(weight.shape) * weight.itemsize
        return 0 if kind == "frozen" else weight.nbytes

    def _generate_group(
        self, prompt_tokens: list[list[int]], sampling: Sampling, members: Sequence[Member | None], log_probs: bool
    ) -> list[list[list[Completion]]]:
        rows = [
            (
                ids,
                completion_key(
                    sampling.seed,
                    sampling.step,
                    ids,
                    sample,
                    member.index if sampling.member_noise and member is not None else None,
                ),
            )
            for member in members
            for ids in prompt_tokens
            for sample in range(sampling.samples)
        ]
        prompts, keys = [ids for ids, _ in rows], [key for _, key in rows]
        generated = self._decode(prompts, keys, sampling, len(members), log_probs)
        end_ids = self.end_ids.tolist()
        completions = (
            replace(completion(self.tokenizer, ids, end_ids), log_probs=values) for ids, values in generated
        )
        return [[[next(completions) for _ in range(sampling.samples)] for _ in prompt_tokens] for _ in members]

    def _decode(
        self, prompt_tokens: list[list[int]], keys: list[int], sampling: Sampling, members: int, log_probs: bool
    ) -> list[tuple[list[int], list[float] | None]]:
        """Continue every row until its end token or `max_new_tokens`; its tokens and, if asked for, what they had.

        Rows are ordered by member, equally many each; a row leaves the batch some time after it is finished, the same
        number for each member, because the batched products need blocks of equal size.
        """
        device = self.model.device
        total, longest = len(prompt_tokens), max(map(len, prompt_tokens))
        pad = self.pad_id
        input_ids = torch.tensor([[pad] * (longest - len(ids)) + ids for ids in prompt_tokens], device=device)
        lengths = torch.tensor([len(ids) for ids in prompt_tokens], device=device)
        capacity = longest + sampling.max_new_tokens
        self._check_window(capacity)
        # [rows, capacity]: True where there is a token to attend to; the prompts are padded on the left.
        visible = torch.arange(capacity, device=device)[None] >= (longest - lengths)[:, None]
        positions = (torch.arange(longest, device=device)[None] - (longest - lengths)[:, None]).clamp(min=0)
        causal = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
        # A padding query sees itself, or its softmax would have nothing to sum over.
        diagonal = torch.eye(longest, dtype=torch.bool, device=device)
        mask = (visible[:, None, None, :longest] & causal) | diagonal  # [rows, 1, longest, longest]

        layers = [RoomyLayer(capacity) for _ in range(self.model.config.num_hidden_layers)]
        cache = Cache(layers=list(layers))
        row_keys = torch.tensor(keys, device=device)
        output = torch.full((total, sampling.max_new_tokens), pad, device=device)
        output_log_probs = torch.zeros(output.shape if log_probs else (total, 0), device=device)
        output_lengths = torch.full((total,), sampling.max_new_tokens, device=device)
        origin = torch.arange(total, device=device)  # which output row each row of the batch writes to
        finished = torch.zeros(total, dtype=torch.bool, device=device)
        per_member = total // members

        for step in range(sampling.max_new_tokens):
            logits = (
                self.model(
                    input_ids=input_ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                .logits[:, -1]
                .float()
            )  # [rows, vocabulary]
            plain = logits
            if sampling.temperature > 0:
                logits = logits / sampling.temperature + gumbel(row_keys, step, logits.shape[-1])
            tokens = logits.argmax(-1)  # the place of a NaN, if there is one
            require_finite_logits(logits.gather(-1, tokens[:, None]))
            output[origin[~finished], step] = tokens[~finished]
            if log_probs:
                chosen = plain.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
                output_log_probs[origin[~finished], step] = chosen[~finished]
            ended = ~finished & torch.isin(tokens, self.end_ids)
            output_lengths[origin[ended]] = step + 1
            finished |= ended

            unfinished = int((~finished).view(members, per_member).sum(1).max())
            if unfinished == 0:
                break
            positions = positions[:, -1:] + 1
            if unfinished <= SHRINK_AT * per_member:
                # Each member keeps as many rows as the one with the most left: its unfinished ones and some others.
                order = finished.view(members, per_member).to(torch.uint8).argsort(dim=1, stable=True)[:, :unfinished]
                kept = (order + torch.arange(members, device=device)[:, None] * per_member).flatten()
                per_member = unfinished
                tokens, positions, visible, row_keys = tokens[kept], positions[kept], visible[kept], row_keys[kept]
                origin, finished = origin[kept], finished[kept]
                for layer in layers:
                    layer.keep_rows(kept)
            input_ids = tokens[:, None]
            mask = visible[:, None, None, : longest + step + 1]  # [rows, 1, 1, length so far]

        each = zip(output.tolist(), output_log_probs.tolist(), output_lengths.tolist(), strict=True)
        return [(ids[:length], values[:length] if log_probs else None) for ids, values, length in each]

    def _check_window(self, capacity: int) -> None:
        """Raise `UserError` if prompts and completions of so many tokens exceed what the model may attend to."""
        window = getattr(self.model.config, "sliding_window", None)  # only some architectures have one
        if window is not None and capacity > window:
            raise UserError(
                f"prompts and completions of up to {capacity} tokens exceed the sliding window of {window}, and "
                "this engine attends to everything; shorten max_new_tokens"
            )


def _kind(member: Member, name: str, weight: torch.Tensor) -> Kind:
    return member.kind(name, weight) if isinstance(member, LowRankMember) else "dense"


def grouped_sdpa(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
    """Scaled dot-product attention for one new token, without copying the keys for each query head.

    query [rows, heads, 1, width]; key, value [rows, key-value heads, length, width]; attention_mask [rows, 1, 1,
    length], True where there is a token. The heads that share a key-value head become so many query positions of it.
    Written out, because the fused CPU kernel takes three times as long for so few queries. Longer queries take
    transformers' own sdpa.
    """
    rows, heads, length, width = query.shape
    if length > 1:
        sdpa = AttentionInterface()["sdpa"]
        return sdpa(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], width) * scaling
    scores = (grouped @ key.transpose(2, 3)).masked_fill_(~attention_mask, -torch.inf)
    out = scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value
    return out.reshape(rows, 1, heads, width), None


AttentionInterface.register("grouped_sdpa", grouped_sdpa)
AttentionMaskInterface.register("grouped_sdpa", sdpa_mask)


@contextmanager
def _decoding(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode and our attention inside the block; the model as it was after it."""
    training, attention = model.training, model.config._attn_implementation
    model.eval()
    model.config._attn_implementation = "grouped_sdpa"
    try:
        yield
    finally:
        model.config._attn_implementation = attention
        model.train(training)
