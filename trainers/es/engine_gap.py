"""The gap between an engine's log-probabilities and those of a forward pass in float32: see `eval.log_prob_gap`."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from eval.log_prob_gap import NAMES, gap
from eval.log_probs import require_plain_output_embedding, token_log_probs
from eval.rollout.base import Member, Messages, RolloutEngine, Sampling
from eval.rollout.chat import prompt_ids


def engine_gap(
    engine: RolloutEngine,
    prompts: Sequence[Messages],
    sampling: Sampling,
    member: Member,
    pristine: Mapping[str, torch.Tensor],
) -> dict[str, float]:
    """The gap on the member's completions, made again, to a float32 model with its weights.

    pristine: the float32 weights that the member is an overlay on. That model takes memory while this runs.
    """
    [answers] = engine.generate(prompts, sampling, [member], log_probs=True)
    batch = [(ids, one.token_ids) for ids, [one] in zip(prompt_ids(engine.tokenizer, prompts), answers, strict=True)]
    reference = token_log_probs(float32_member(engine, member, pristine), batch)
    return dict(zip(NAMES, gap([one.log_probs or [] for [one] in answers], reference), strict=True))


def float32_member(engine: RolloutEngine, member: Member, pristine: Mapping[str, torch.Tensor]) -> PreTrainedModel:
    """A model of its own with the member's weights."""
    if engine.model.device.type == "meta":  # vLLM's stand-in, without memory
        with torch.random.fork_rng():
            model: Any = AutoModelForCausalLM.from_config(engine.model.config, dtype=torch.float32)
    else:
        model = copy.deepcopy(engine.model)
    for name, parameter in model.named_parameters():
        weight = pristine.get(name, parameter.data).float()
        parameter.data = weight + member.delta(name, weight) if name in pristine else weight
    require_plain_output_embedding(model)
    return model.eval()
