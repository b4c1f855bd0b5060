"""How often a model prefers the right answer of a circuit task to the wrong one."""

from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eval.circuit_tasks.base import CircuitTask
from eval.circuit_tasks.tokens import TokenExample, token_examples
from eval.intervals import wilson_interval


@torch.no_grad()
def logit_differences(
    model: PreTrainedModel, examples: list[TokenExample], pad_token_id: int, batch_size: int = 256
) -> tuple[torch.Tensor, torch.Tensor]:
    """logit[answer] - logit[wrong] after the clean and after the corrupted prompts, float32 [examples] each."""
    sides = []
    for prompts in ([example.clean for example in examples], [example.corrupted for example in examples]):
        differences = []
        for start in range(0, len(examples), batch_size):
            rows, part = prompts[start : start + batch_size], examples[start : start + batch_size]
            longest = max(map(len, rows))
            # No attention mask: the padding is on the right, where causal attention cannot see it.
            ids = torch.tensor([[*row, *[pad_token_id] * (longest - len(row))] for row in rows], device=model.device)
            last = torch.tensor([len(row) - 1 for row in rows], device=model.device)
            hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
            logits = model.lm_head(hidden[torch.arange(len(rows), device=model.device), last]).float().cpu()
            pairs = torch.tensor([(example.answer, example.wrong) for example in part])
            chosen = logits.gather(1, pairs)
            differences.append(chosen[:, 0] - chosen[:, 1])
        sides.append(torch.cat(differences))
    return sides[0], sides[1]


def pair_accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: CircuitTask, split: str, size: int, seed: int
) -> dict[str, Any]:
    """Share of `size` examples whose logit difference is above 0 after the clean prompt, with Wilson's interval.

    clean, corrupted: mean logit differences after either prompt. solved: share whose difference is above 0 after the
    clean prompt and smaller after the corrupted one. fitting: share of drawn examples that keep their
    positions with this tokenizer; the others are not counted.
    """
    examples, fitting = token_examples(task, tokenizer, split, size, seed)
    clean, corrupted = logit_differences(model, examples, cast(int, tokenizer.pad_token_id))
    correct = int((clean > 0).sum())
    low, high = wilson_interval(correct, len(examples))
    return {
        "correct": correct,
        "total": len(examples),
        "accuracy": correct / len(examples),
        "low": low,
        "high": high,
        "clean": clean.mean().item(),
        "corrupted": corrupted.mean().item(),
        "solved": ((clean > 0) & (corrupted < clean)).double().mean().item(),
        "fitting": fitting,
    }
