"""Statistics of a model's internal activity while it writes its own answers.

"Reinforcement Learning Fine-Tuning Enhances Activation Intensity and Diversity in the Internal Circuitry of LLMs"
(arXiv 2509.21044): attention and MLP blocks are the nodes of a residual graph; the edge from a block's output O to a
later block's input H has the weight -<dL/dH, O>, the first-order effect on L of removing O from what that block reads.
L is the cross-entropy of tokens that the model generated itself. The paper's bins and its cut of long answers are not
given; here entropy is that of a histogram with stated bins, between the smallest and the largest weight of the run.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from analysis.circuits.nodes import CircuitModel, hooks


def edge_weights(
    model: CircuitModel, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], batch_size: int
) -> torch.Tensor:
    """Weights of the residual graph for each answer, float64 [n, 2 L + 1, 2 L + 1] on the CPU.

    [i, u, v] is the weight of the edge from u to v in answer i; u is the embedding, then attention and MLP of each
    layer; v is attention and MLP of each layer, then the head over the vocabulary. Edges to earlier blocks are 0.
    prompts, completions: token ids; L is the mean cross-entropy over the tokens of a completion.
    """
    pairs = list(zip(prompts, completions, strict=True))
    starts = range(0, len(pairs), batch_size)
    return torch.cat([_batch_weights(model, pairs[start : start + batch_size]) for start in starts])


@torch.no_grad()
def greedy_completions(
    model: CircuitModel, prompts: Sequence[Sequence[int]], tokens: int, end: int | None, batch_size: int
) -> list[list[int]]:
    """What the model writes after each prompt: at most `tokens` greedy token ids, the `end` token included.

    Without a key-value cache: for short completions.
    """
    completions: list[list[int]] = []
    for start in range(0, len(prompts), batch_size):
        rows = [list(prompt) for prompt in prompts[start : start + batch_size]]
        lengths = [len(row) for row in rows]
        for _ in range(tokens):
            longest = max(map(len, rows))
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=model.device)
            last = torch.tensor([len(row) - 1 for row in rows], device=model.device)
            hidden = model.backbone(input_ids=ids, use_cache=False).last_hidden_state
            logits = model.model.lm_head(hidden[torch.arange(len(rows), device=model.device), last])
            for row, length, token in zip(rows, lengths, logits.argmax(-1).tolist(), strict=True):
                if len(row) == length or row[-1] != end:
                    row.append(token)
        completions += [row[length:] for row, length in zip(rows, lengths, strict=True)]
    return completions


def _batch_weights(model: CircuitModel, pairs: list[tuple[Sequence[int], Sequence[int]]]) -> torch.Tensor:
    longest = max(len(prompt) + len(completion) for prompt, completion in pairs)
    ids = torch.zeros(len(pairs), longest, dtype=torch.long)
    labels = torch.full((len(pairs), longest), -100)
    for row, (prompt, completion) in enumerate(pairs):
        end = len(prompt) + len(completion)
        ids[row, :end] = torch.tensor([*prompt, *completion])
        labels[row, len(prompt) : end] = torch.tensor(completion)
    ids, labels = ids.to(model.device), labels.to(model.device)

    outputs: list[torch.Tensor] = []
    inputs: list[torch.Tensor] = []

    def read(_module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        # A view of its own: its gradient flows through this block alone, not through the residual stream past it.
        inputs.append(arguments[0].view_as(arguments[0]))
        return (inputs[-1],)

    def wrote(_module: nn.Module, _arguments: tuple, output: torch.Tensor) -> None:
        outputs.append(output.detach())

    handles = []
    for layer in model.layers:
        handles += [
            layer.input_layernorm.register_forward_pre_hook(read),
            layer.post_attention_layernorm.register_forward_pre_hook(read),
            layer.self_attn.o_proj.register_forward_hook(wrote),
            layer.mlp.register_forward_hook(wrote),
        ]
    handles.append(model.backbone.norm.register_forward_pre_hook(read))
    with hooks(handles), torch.enable_grad():
        embedded = model.embed(ids).detach().requires_grad_()
        # No attention mask: the padding is on the right, where causal attention cannot see it.
        hidden = model.backbone(inputs_embeds=embedded, use_cache=False).last_hidden_state
        logits = model.model.lm_head(hidden).float()
        losses = nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none", ignore_index=-100
        ).view(len(pairs), -1)
        counted = (labels[:, 1:] != -100).sum(1)
        gradients = torch.autograd.grad((losses.sum(1) / counted).sum(), inputs)

    written = [embedded.detach(), *outputs]
    weights = torch.zeros(len(pairs), len(written), len(gradients), dtype=torch.float64)
    for reader, gradient in enumerate(gradients):
        for writer in range(reader + 1):
            weights[:, writer, reader] = -(gradient.double() * written[writer].double()).sum((1, 2)).cpu()
    return weights


def statistics(weights: torch.Tensor, bins: int = 50) -> dict[str, Any]:
    """Intensity, entropy and kurtosis of edge weights [n, W, W]; each is computed per answer and then averaged.

    intensity: mean |weight|. entropy: of the histogram of an answer's weights with `bins` equal bins, in nats.
    kurtosis: fourth central moment over the squared variance, minus 3 (0 for a normal distribution).
    *_low, *_high: 95 % interval of the mean, normal approximation.
    """
    edges = torch.ones(weights.shape[1:]).triu().bool()
    values = weights[:, edges]
    intensity = values.abs().mean(1)
    entropy = torch.stack([_histogram_entropy(row, bins) for row in values])
    centred = values - values.mean(1, keepdim=True)
    kurtosis = centred.pow(4).mean(1) / centred.pow(2).mean(1).pow(2) - 3
    summary: dict[str, Any] = {"answers": len(values), "edges": int(edges.sum()), "bins": bins}
    for name, per_answer in (("intensity", intensity), ("entropy", entropy), ("kurtosis", kurtosis)):
        mean = per_answer.mean().item()
        half = 1.96 * per_answer.std().item() / len(per_answer) ** 0.5
        summary |= {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}
    return summary


def _histogram_entropy(values: torch.Tensor, bins: int) -> torch.Tensor:
    shares = torch.histc(values, bins) / len(values)
    return -(shares[shares > 0] * shares[shares > 0].log()).sum()
