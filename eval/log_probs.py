"""Log-probabilities that a model gives to every token at the positions of given texts."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from eval.errors import UserError


# Prompt token ids (at least one) and completion token ids.
TokenPair = tuple[list[int], list[int]]

# Scalars in one [positions, vocabulary] tensor; some five such float64 tensors are alive at a time (0.7 GB).
MAX_LOGITS = 2**24


@torch.no_grad()
def completion_log_probs(
    model: PreTrainedModel, batch: Sequence[TokenPair], max_logits: int = MAX_LOGITS
) -> Iterator[torch.Tensor]:
    """Log-probabilities of the next token at every position that predicts a completion token.

    Yields float64 [rows, vocabulary] pieces of at most `max_logits` scalars; put together, the rows are all completion
    tokens of the first sequence, then of the second, and so on. The transformer runs once for the batch, only the
    output embedding runs piece by piece; for a model that changes its logits after that (see
    `require_plain_output_embedding`) the values would be wrong.
    """
    longest = max(len(prompt) + len(completion) for prompt, completion in batch)
    # Padding on the right: causal attention keeps it from all positions that count.
    padded = [[*prompt, *completion] + [0] * (longest - len(prompt) - len(completion)) for prompt, completion in batch]
    prompts = torch.tensor([len(prompt) for prompt, _ in batch], device=model.device)[:, None]
    completions = torch.tensor([len(completion) for _, completion in batch], device=model.device)[:, None]
    positions = torch.arange(longest, device=model.device)[None]
    hidden = model.get_decoder()(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=(positions < prompts + completions).long(),
        use_cache=False,
    ).last_hidden_state  # [sequences, longest, width]
    # The logits at a position are about the next token.
    predicts = (positions >= prompts - 1) & (positions < prompts + completions - 1)
    head: Any = model.get_output_embeddings()
    rows = max(1, max_logits // head.weight.shape[0])
    for states in hidden[predicts].split(rows):
        yield head(states).double().log_softmax(-1)


def token_log_probs(model: PreTrainedModel, batch: Sequence[TokenPair]) -> list[list[float]]:
    """The log-probability of each completion token, given those before it."""
    left = torch.tensor([token for _, completion in batch for token in completion], device=model.device)
    found: list[float] = []
    for rows in completion_log_probs(model, batch):
        found += rows.gather(1, left[len(found) : len(found) + len(rows), None])[:, 0].tolist()
    each = iter(found)
    return [[next(each) for _ in completion] for _, completion in batch]


@torch.no_grad()
def require_plain_output_embedding(model: PreTrainedModel) -> None:
    """Raise UserError if the model scales or caps its logits after the output embedding, as some architectures do."""
    # Several tokens, because the embedding of a padding token may be 0, which no change of the logits would show.
    ids = torch.arange(4, device=model.device)[None]
    logits = model(input_ids=ids, use_cache=False).logits
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    head: Any = model.get_output_embeddings()
    if not torch.equal(head(hidden), logits):
        raise UserError(
            f"{type(model).__name__} changes its logits after the output embedding, which is not measured here; "
            "give a Llama, Qwen2, Qwen3 or Mistral model"
        )
