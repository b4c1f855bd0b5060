"""Which parts of a small generative model carry the rule, and which its memory.

A part is named as in circuits: `a{layer}.h{head}` is an attention head, `m{layer}` an MLP. It is ablated by setting
its output to 0. What a model does is judged by what it samples: validity and copying are measured apart, so that
parts that serve the rule can be told from parts that serve memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from eval.generative.checkpoint import GenerativeModel
from eval.generative.denoiser import EDMDenoiser
from eval.generative.diffusers_dit import DiffusersDiT
from eval.generative.dit import DiT
from eval.generative.masked import MaskedDiffusion
from eval.generative.mlp import MLP
from eval.generative.next_token import NextToken
from eval.rules import Rule, is_member
from eval.rules.encoding import encode
from eval.rules.spatial_relation import RELATIONS, SpatialRelation


# Noise level at which denoisers are looked at: where the rule decides most (see analysis.clocks.score_field.SIGMAS).
LOOK_SIGMA = 0.7


def group_mates(rule: Rule, seed: int = 0) -> np.ndarray:
    """bool [n, n]: which other positions stand in one constraint with a position.

    A constraint reads a position if some change of the symbol there, in one of 64 valid strings, changes whether it
    holds.
    """
    strings = rule.draw(64, np.random.default_rng(seed))
    before = rule.constraints(strings)
    reads = np.zeros((rule.positions, before.shape[1]), dtype=bool)
    for position in range(rule.positions):
        for added in range(1, rule.vocabulary):
            changed = strings.copy()
            changed[:, position] = (changed[:, position] + added) % rule.vocabulary
            reads[position] |= (rule.constraints(changed) != before).any(axis=0)
    mates = (reads.astype(int) @ reads.T.astype(int)) > 0
    np.fill_diagonal(mates, False)
    return mates


def attention_weights(model: GenerativeModel, strings: np.ndarray, seed: int = 0) -> Tensor | None:
    """float [layers, B, heads, n, n]: how much each position (query, to be predicted) attends to each other (key).

    Next-token models predict position q from the start token and the positions before it: the start token is left out,
    so that rows sum to less than 1. Denoisers see the strings with noise of level `LOOK_SIGMA`, masked diffusion with
    half of them masked. None for models without attention, and for diffusers' own class, which does not give it.
    """
    network = model.network
    with torch.no_grad():
        if isinstance(model, NextToken):
            before = network.config._attn_implementation
            network.set_attn_implementation("eager")
            tokens = model.with_start(torch.as_tensor(strings).long())[:, :-1]
            attentions = network(input_ids=tokens, output_attentions=True, use_cache=False).attentions
            network.set_attn_implementation(before)
            of_positions = torch.stack(attentions)[..., 1:]
            return nn.functional.pad(of_positions, (0, 1))
        if not isinstance(network, DiT):
            return None
        inputs: list[Tensor] = []
        hooks = [
            block.attention.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
            for block in network.blocks
        ]
        _run(model, strings, seed)
        for hook in hooks:
            hook.remove()
        return torch.stack(
            [block.attention.weights(hidden) for block, hidden in zip(network.blocks, inputs, strict=True)]
        )


def _run(model: EDMDenoiser | MaskedDiffusion, strings: np.ndarray, seed: int) -> None:
    """One pass over corrupted strings."""
    generator = torch.Generator().manual_seed(seed)
    if isinstance(model, EDMDenoiser):
        clean = encode(strings, model.vocabulary)
        noisy = clean + LOOK_SIGMA * torch.randn(clean.shape, generator=generator)
        model.denoise(noisy, torch.full((len(clean),), LOOK_SIGMA))
    else:
        masked = torch.rand(strings.shape, generator=generator) < 0.5
        model.logits(torch.as_tensor(strings).long(), masked, torch.full((len(strings),), 0.5))


def attention_to_mates(weights: Tensor, mates: np.ndarray, causal: bool) -> list[list[float]]:
    """[layer][head]: attention mass on group mates, relative to what even attention would put there (1 is chance).

    Over the queries that have a mate to attend to. causal: query q sees the start token and the positions before q.

    weights: of `attention_weights`. mates: bool [n, n].
    """
    count = mates.shape[0]
    visible = mates & (np.tri(count, k=-1, dtype=bool) if causal else True)
    seen = np.arange(count) + 1 if causal else np.full(count, count)
    even = visible.sum(axis=1) / seen
    rows = torch.as_tensor(even > 0)
    mass = (weights * torch.as_tensor(visible)).sum(-1)[..., rows].mean(dim=(1, 3))
    return (mass / even[even > 0].mean()).tolist()


def parts(model: GenerativeModel) -> list[str]:
    """The names of all heads and MLPs, layer by layer."""
    network, names = model.network, []
    for layer, (project, _) in enumerate(_layers(network)):
        if project is not None:
            names += [f"a{layer}.h{head}" for head in range(_heads(network))]
        names.append(f"m{layer}")
    return names


@contextmanager
def ablated(model: GenerativeModel, part: str) -> Iterator[None]:
    """Within the block, the output of `part` is 0. Raises KeyError for a part that the model does not have."""
    if part not in parts(model):
        raise KeyError(f"{part} is not a part of this model; it has {', '.join(parts(model))}")
    layer, _, head = part[1:].partition(".h")
    project, mlp = _layers(model.network)[int(layer)]
    if part.startswith("m"):
        handle: RemovableHandle = mlp.register_forward_hook(lambda module, args, output: torch.zeros_like(output))
    else:
        handle = project.register_forward_pre_hook(_silence(int(head), _heads(model.network)))
    try:
        yield
    finally:
        handle.remove()


def _silence(head: int, heads: int):
    """A hook before the projection of attention, whose input [..., width] holds the heads' outputs side by side."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        size = args[0].shape[-1] // heads
        changed = args[0].clone()
        changed[..., head * size : (head + 1) * size] = 0
        return (changed, *args[1:])

    return hook


def _layers(network: nn.Module) -> list[tuple[nn.Module | None, nn.Module]]:
    """(projection after the heads, MLP) of each layer; None where a layer has no attention."""
    if isinstance(network, MLP):
        return [(None, block.fall) for block in network.blocks]
    if isinstance(network, DiT):
        return [(block.attention.project, block.mlp) for block in network.blocks]
    if isinstance(network, DiffusersDiT):
        return [(block.attn1.to_out[0], block.ff) for block in network.model.transformer_blocks]
    if network.config.model_type == "gpt2":
        return [(block.attn.c_proj, block.mlp) for block in network.transformer.h]
    return [(block.self_attn.o_proj, block.mlp) for block in network.model.layers]


def _heads(network: nn.Module) -> int:
    if isinstance(network, DiT):
        return network.blocks[0].attention.heads
    if isinstance(network, DiffusersDiT):
        return network.model.config.num_attention_heads
    return network.config.num_attention_heads


def behaviour(
    model: GenerativeModel, rule: Rule, train: np.ndarray, samples: int = 256, seed: int = 0
) -> dict[str, float]:
    """{"valid", "copies": shares of the samples, "novel_valid": share of all samples valid and no copies}."""
    strings, _ = model.sample(samples, torch.Generator().manual_seed(seed))
    valid, copied = rule.valid(strings), is_member(strings, train)
    return {
        "valid": float(valid.mean()),
        "copies": float(copied.mean()),
        "novel_valid": float((valid & ~copied).mean()),
    }


def ablation(
    model: GenerativeModel, rule: Rule, train: np.ndarray, samples: int = 256, seed: int = 0
) -> dict[str, dict[str, float]]:
    """{"none" or part: `behaviour` without that part}; the same noise for all."""
    without = {"none": behaviour(model, rule, train, samples, seed)}
    for part in parts(model):
        with ablated(model, part):
            without[part] = behaviour(model, rule, train, samples, seed)
    return without


def hidden_states(model: GenerativeModel, strings: np.ndarray, seed: int = 0) -> list[Tensor] | None:
    """The residual stream after the input and after each block: float [B, n, width] each.

    At position i of a next-token model: what it holds when it has just read symbol i. None for models without
    positions, and for diffusers' own class.
    """
    network = model.network
    with torch.no_grad():
        if isinstance(model, NextToken):
            tokens = model.with_start(torch.as_tensor(strings).long())
            # The last symbol is never an input; where it would stand there is no state.
            output = network(input_ids=tokens[:, :-1], output_hidden_states=True, use_cache=False)
            return [states[:, 1:] for states in output.hidden_states]
        if not isinstance(network, DiT):
            return None
        states: list[Tensor] = []
        hooks = [network.blocks[0].register_forward_pre_hook(lambda _, args: states.append(args[0]))]
        hooks += [
            block.register_forward_hook(lambda _, args, output: states.append(output)) for block in network.blocks
        ]
        _run(model, strings, seed)
        for hook in hooks:
            hook.remove()
        return states


def probe_accuracy(features: Tensor, target: Tensor, ridge: float = 1e-3) -> float:
    """Share of held-out rows [second half] whose sign a linear probe, fitted to the first half, gets right.

    features: float [B, d]. target: float [B] of -1 and +1. ridge: relative to the mean square of the features.
    """
    x = torch.cat([features.double(), torch.ones(len(features), 1, dtype=torch.float64)], 1)
    half = len(x) // 2
    gram = x[:half].T @ x[:half]
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    weights = torch.linalg.solve(gram, x[:half].T @ target[:half].double())
    return ((x[half:] @ weights > 0) == (target[half:] > 0)).double().mean().item()


def partial_parities(
    model: GenerativeModel, group: int, samples: int = 1024, seed: int = 0
) -> dict[str, list[float]] | None:
    """How well partial parities can be read linearly from the residual stream, by layer (0: after the input).

    {"prefix_k": accuracy for the parity of the first k bits of a group, at the place where bit k was read}, for
    k = 2 .. group - 1, of next-token models; {"others": accuracy for the parity of the other bits of the group, at the
    place of each bit}, for denoisers. Inputs are uniformly random bits, for which no parity follows from fewer bits:
    chance is 0.5. Mean over groups. None where `hidden_states` gives none, or if group is 2 and the model predicts
    tokens.
    """
    strings = np.random.default_rng(seed).integers(2, size=(samples, model_positions(model)), dtype=np.int8)
    states = hidden_states(model, strings, seed)
    if states is None or (isinstance(model, NextToken) and group < 3):
        return None
    signs = torch.as_tensor(1.0 - 2.0 * strings).unflatten(1, (-1, group))
    groups = signs.shape[1]
    if isinstance(model, NextToken):
        prefixes = signs.cumprod(dim=2)
        return {
            f"prefix_{k}": [
                _mean(probe_accuracy(layer[:, g * group + k - 1], prefixes[:, g, k - 1]) for g in range(groups))
                for layer in states
            ]
            for k in range(2, group)
        }
    others = signs.prod(dim=2, keepdim=True) * signs
    flat = others.flatten(1)
    return {
        "others": [_mean(probe_accuracy(layer[:, i], flat[:, i]) for i in range(flat.shape[1])) for layer in states]
    }


def model_positions(model: GenerativeModel) -> int:
    """Symbols in a string of the model."""
    return model.dimension if isinstance(model, EDMDenoiser) else model.positions


def _mean(values: Iterator[float]) -> float:
    collected = list(values)
    return sum(collected) / len(collected)


def relation_accuracy(model: NextToken, rule: SpatialRelation, samples: int = 256, seed: int = 0) -> dict[str, float]:
    """What a model that is asked for a relation draws, over all four relations in turn.

    {"objects": share with exactly one first and one second object and nothing else,
     "relation": share of those whose objects stand as asked, "both": share that is right altogether}; "relation" is 0
    where no objects are right.
    """
    prompts = np.resize(np.array(RELATIONS, dtype=np.int8), samples)[:, None]
    strings, _ = model.sample(samples, torch.Generator().manual_seed(seed), prompts)
    right = rule.constraints(strings)
    objects = right[:, 1:4].all(axis=1)
    holds = right[:, 4] & objects
    return {
        "objects": float(objects.mean()),
        "relation": float(holds.sum() / objects.sum()) if objects.any() else 0.0,
        "both": float(holds.mean()),
    }


def relation_ablation(
    model: NextToken, rule: SpatialRelation, samples: int = 256, seed: int = 0
) -> dict[str, dict[str, float]]:
    """{"none" or part: `relation_accuracy` without that part, with "attention": for heads, the share of attention from
    the cells to the relation}; tells heads that read the relation from heads that place objects.
    """
    strings = rule.draw(64, np.random.default_rng(seed))
    weights = attention_weights(model, strings)
    # Queries from the second cell on; the first has only the relation and the start token to look at.
    to_relation = weights[..., 2:, 0].mean(dim=(1, 3))
    without = {"none": relation_accuracy(model, rule, samples, seed)}
    for part in parts(model):
        with ablated(model, part):
            without[part] = relation_accuracy(model, rule, samples, seed)
        if part.startswith("a"):
            layer, head = part[1:].split(".h")
            without[part]["attention"] = to_relation[int(layer), int(head)].item()
    return without
