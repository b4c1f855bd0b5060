"""The gap between what generates GRPO's completions and its training forward pass: see `eval.log_prob_gap`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from trl import GRPOTrainer

from eval.log_prob_gap import COMPARED, NAMES, gap


class SampledLogProbs(LogitsProcessor):
    """Records, as transformers generates, the log-probability of each sampled token at the temperature."""

    def __init__(self, temperature: float):
        self.temperature = temperature
        self.columns: list[torch.Tensor] = []
        self.last: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.take(input_ids[:, -1])
        self.last = (scores.float() / self.temperature).log_softmax(-1)
        return scores

    def take(self, tokens: torch.Tensor) -> None:
        """The tokens drawn from the scores before."""
        if self.last is not None:
            self.columns.append(self.last.gather(1, tokens[:, None])[:, 0])

    def of(self, completion_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        rows = torch.stack(self.columns, dim=1).tolist() if self.columns else []
        return [row[: len(ids)] for row, ids in zip(rows, completion_ids, strict=False)]


@contextmanager
def recorded(model: Any, recorder: SampledLogProbs) -> Iterator[None]:
    """Inside the block, `model.generate` records."""
    generate = model.generate

    def generate_and_record(*arguments: Any, **options: Any) -> torch.Tensor:
        tokens = generate(*arguments, logits_processor=LogitsProcessorList([recorder]), **options)
        recorder.take(tokens[:, -1])
        return tokens

    model.generate = generate_and_record
    try:
        yield
    finally:
        del model.generate


def report_gap(trainer: GRPOTrainer, every: int) -> None:
    """Let the trainer log the gap on the first completions of each `every`th step; the mean and the max of processes.

    It costs a forward pass over those completions.
    """
    generate = trainer._generate_single_turn
    model: Any = trainer.model

    def generate_and_compare(prompt_ids: list[list[int]], *arguments: Any, **options: Any) -> tuple[Any, Any]:
        if not model.training or trainer.state.global_step % every:
            return generate(prompt_ids, *arguments, **options)
        recorder = SampledLogProbs(trainer.temperature)
        with recorded(model, recorder):
            completion_ids, given = generate(prompt_ids, *arguments, **options)
        found = recorder.of(completion_ids) if given is None else given
        batch = list(zip(prompt_ids, completion_ids, strict=True))[:COMPARED]
        reference = training_log_probs(trainer, batch)
        mean, most = gap(found[: len(batch)], reference)
        everywhere = trainer.accelerator.gather(torch.tensor([[mean, most]], device=trainer.accelerator.device))
        trainer._metrics["train"][NAMES[0]].append(everywhere[:, 0].mean().item())
        trainer._metrics["train"][NAMES[1]].append(everywhere[:, 1].max().item())
        return completion_ids, given

    trainer._generate_single_turn = generate_and_compare


@torch.no_grad()
def training_log_probs(trainer: GRPOTrainer, batch: Sequence[tuple[list[int], list[int]]]) -> list[list[float]]:
    """Of each completion token, as the trainer's own forward pass gives it, padded as the trainer pads."""
    before, after = (max(len(pair[side]) for pair in batch) for side in (0, 1))
    pad = trainer._tokenizer.pad_token_id
    rows = [[pad] * (before - len(p)) + p + c + [pad] * (after - len(c)) for p, c in batch]
    mask = [[0] * (before - len(p)) + [1] * (len(p) + len(c)) + [0] * (after - len(c)) for p, c in batch]
    device = trainer.accelerator.device
    ids, attended = torch.tensor(rows, device=device), torch.tensor(mask, device=device)
    logps = trainer._get_per_token_logps_and_entropies(trainer.model_wrapped, ids, attended, after)[0]
    return [row[: len(c)] for row, (_, c) in zip(logps.float().tolist(), batch, strict=True)]
