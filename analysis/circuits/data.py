"""Circuit tasks as batches for one tokenizer, and which of their examples a model solves."""

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from analysis.circuits.batch import Batch, answer_loss
from analysis.circuits.nodes import CircuitModel
from eval.circuit_tasks import CircuitTask, get_circuit_task
from eval.circuit_tasks.tokens import TokenExample, token_examples
from eval.errors import UserError


# Examples tried for each one that is wanted.
MOST_DRAWN = 32


def batch_of(examples: list[TokenExample], pad_token_id: int) -> Batch:
    """The examples as one batch, padded on the right.

    Answers of several tokens are scored by the first token that differs (see `eval.circuit_tasks.tokens`).
    """
    return Batch.from_tokens(
        [example.clean for example in examples],
        [example.corrupted for example in examples],
        [example.answer for example in examples],
        [example.wrong for example in examples],
        pad_token_id,
        "right",
    )


@torch.no_grad()
def logit_differences(model: CircuitModel, batch: Batch, batch_size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """logit[answer] - logit[wrong] after the clean and after the corrupted prompts, float32 [B] each, on the CPU."""
    clean, corrupted = [], []
    for part in batch.split(batch_size):
        part = part.to(model.device)
        for ids, differences in ((part.clean_ids, clean), (part.corrupted_ids, corrupted)):
            differences.append(-answer_loss(model.run(ids, part.attention_mask).logits, part).cpu())
    return torch.cat(clean), torch.cat(corrupted)


def solved_batch(
    models: dict[str, CircuitModel],
    tokenizer: PreTrainedTokenizerBase,
    task: CircuitTask | str,
    split: str,
    size: int,
    seed: int,
    batch_size: int = 64,
) -> tuple[Batch, dict[str, Any]]:
    """`size` examples that every model solves: the answer before the wrong one if clean, less so if corrupted.

    Returns the batch and {"examples", "drawn", "fitting", "solved": {model: share}, "kept"}: of the `drawn` examples
    the share `fitting` kept their positions; of those each model solved a share, and all of them the share `kept`.
    Where a counterfactual flips the answer, "less so" does not ask for the flip: a model that is merely unsure after
    the corrupted prompt is kept. Raises UserError if fewer than `size` of MOST_DRAWN * `size` are solved by all.
    """
    task = get_circuit_task(task) if isinstance(task, str) else task
    examples, fitting = token_examples(task, tokenizer, split, 2 * size, seed)
    while True:
        batch = batch_of(examples, tokenizer.pad_token_id)
        solved = {}
        for name, model in models.items():
            clean, corrupted = logit_differences(model, batch, batch_size)
            solved[name] = (clean > 0) & (corrupted < clean)
        kept = torch.stack(list(solved.values())).all(0).nonzero().flatten()
        if len(kept) >= size or len(examples) >= MOST_DRAWN * size:
            break
        examples, fitting = token_examples(task, tokenizer, split, 2 * len(examples), seed)
    shares = {name: of_model.float().mean().item() for name, of_model in solved.items()}
    if len(kept) < size:
        listed = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        raise UserError(
            f"only {len(kept)} of {len(examples)} {split} examples of task {task.name} are solved by all models "
            f"({listed}), not {size}; train longer, ask for fewer, or leave the task out"
        )
    report = {
        "examples": size,
        "drawn": len(examples),
        "fitting": fitting,
        "solved": shares,
        "kept": len(kept) / len(examples),
    }
    return batch_of([examples[i] for i in kept[:size].tolist()], tokenizer.pad_token_id), report


def solved_batches(
    models: dict[str, CircuitModel],
    tokenizer: PreTrainedTokenizerBase,
    task: CircuitTask | str,
    split: str,
    size: int,
    seed: int,
    rows: int,
) -> tuple[list[Batch], dict[str, Any]]:
    """The same in batches of at most `rows` on the models' device."""
    batch, report = solved_batch(models, tokenizer, task, split, size, seed, rows)
    device = next(iter(models.values())).device
    return [part.to(device) for part in batch.split(rows)], report
