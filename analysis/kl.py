"""Exact KL divergence between two models over whole vocabularies, at the positions of sampled completions.

Forward is KL(base || model) averaged over completions that base sampled, reverse is KL(model || base) averaged over
completions that the model sampled, both at temperature 1. Which of the two is reported can turn a ranking of methods
round, so every result carries its direction and its sampling policy.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from analysis.weights import Checkpoint, check_same_parameters
from eval.errors import UserError
from eval.rollout.base import Messages, Sampling
from eval.rollout.hf import HFEngine
from eval.tasks import get_task


# Prompt token ids (at least one) and completion token ids.
TokenPair = tuple[list[int], list[int]]

# Scalars in one [positions, vocabulary] tensor; some five such float64 tensors are alive at a time (0.7 GB).
MAX_LOGITS = 2**24
ESTIMATOR = "exact full-vocabulary sum at each position of sampled completions"
BOOTSTRAP_DRAWS = 2000


def token_kl(log_probs_p: torch.Tensor, log_probs_q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) in nats at each position: [..., vocabulary] normalised log-probabilities -> [...].

    A token that is impossible under p adds nothing; one that is impossible under q alone makes the sum infinite.
    """
    terms = log_probs_p.exp() * (log_probs_p - log_probs_q)
    return terms.masked_fill(log_probs_p == -torch.inf, 0.0).sum(-1)


def exact_kl(
    p_model: PreTrainedModel,
    q_model: PreTrainedModel,
    token_batches: Iterable[Sequence[TokenPair]],
    max_logits: int = MAX_LOGITS,
    seed: int = 0,
) -> dict:
    """KL(p_model || q_model) at the completion positions of token sequences; the prompts only condition.

    If the completions were sampled from p_model at temperature 1, `per_sequence` estimates, without bias, the
    divergence of the two distributions over completions (cut at the length where sampling stopped): by the chain rule
    it is the expected sum over positions of the divergence at each position. `per_token` is the sum over all sequences
    divided by their number of tokens. Both come with a 95 % percentile bootstrap interval over sequences.

    token_batches: sequences that go through the models together.
    max_logits: no [positions, vocabulary] tensor has more scalars than this (or than one position needs).
    seed: of the bootstrap.

    Raises UserError if a model computes its logits in another way than by its output embedding alone.
    """
    for model in (p_model, q_model):
        require_plain_output_embedding(model)
    sums, counts = [], []
    for batch in token_batches:
        for divergence in completion_kl(p_model, q_model, batch, max_logits):
            sums.append(divergence.sum().item())
            counts.append(len(divergence))
    return summarise(sums, counts, seed) | {"estimator": ESTIMATOR}


def completion_kl(
    p_model: PreTrainedModel, q_model: PreTrainedModel, batch: Sequence[TokenPair], max_logits: int = MAX_LOGITS
) -> tuple[torch.Tensor, ...]:
    """KL(p_model || q_model) at each completion position: one float64 [completion length] tensor for each sequence."""
    p_chunks = completion_log_probs(p_model, batch, max_logits)
    q_chunks = completion_log_probs(q_model, batch, max_logits)
    chunks = [token_kl(p, q.to(p.device)).cpu() for p, q in zip(p_chunks, q_chunks, strict=True)]
    return torch.cat(chunks).split([len(completion) for _, completion in batch])


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
    head = model.get_output_embeddings()
    rows = max(1, max_logits // head.weight.shape[0])
    for states in hidden[predicts].split(rows):
        yield head(states).double().log_softmax(-1)


@torch.no_grad()
def require_plain_output_embedding(model: PreTrainedModel) -> None:
    """Raise UserError if the model scales or caps its logits after the output embedding, as some architectures do."""
    # Several tokens, because the embedding of a padding token may be 0, which no change of the logits would show.
    ids = torch.arange(4, device=model.device)[None]
    logits = model(input_ids=ids, use_cache=False).logits
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    if not torch.equal(model.get_output_embeddings()(hidden), logits):
        raise UserError(
            f"{type(model).__name__} changes its logits after the output embedding, which is not measured here; "
            "give a Llama, Qwen2, Qwen3 or Mistral model"
        )


def summarise(sums: Sequence[float], counts: Sequence[int], seed: int) -> dict:
    """Mean per token and per sequence, with intervals, of a quantity summed over the tokens of each sequence."""
    per_token, per_token_low, per_token_high = ratio_with_interval(sums, counts, seed)
    per_sequence, per_sequence_low, per_sequence_high = ratio_with_interval(sums, [1] * len(sums), seed)
    return {
        "per_token": per_token,
        "per_token_low": per_token_low,
        "per_token_high": per_token_high,
        "per_sequence": per_sequence,
        "per_sequence_low": per_sequence_low,
        "per_sequence_high": per_sequence_high,
        "tokens": sum(counts),
        "sequences": len(sums),
    }


def ratio_with_interval(
    numerators: Sequence[float], denominators: Sequence[float], seed: int
) -> tuple[float, float, float]:
    """sum(numerators) / sum(denominators) and its 95 % percentile bootstrap interval (low, high).

    Sequences, as pairs of numerator and denominator, are resampled with replacement 2,000 times.
    """
    pairs = np.stack([np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)])
    count = pairs.shape[1]
    # A resample is how often each sequence was drawn.
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=BOOTSTRAP_DRAWS)
    resampled = draws @ pairs.T  # [draws, 2]
    low, high = np.percentile(resampled[:, 0] / resampled[:, 1], [2.5, 97.5])
    numerator, denominator = pairs.sum(axis=1)
    return float(numerator / denominator), float(low), float(high)


def kl_drift(
    base: Path,
    checkpoints: dict[str, Path],
    tasks: list[str],
    prompts_per_task: int,
    seed: int,
    max_new_tokens: int,
    batch_size: int,
    device: str | None = None,
) -> dict:
    """Forward and reverse KL between base and each checkpoint, on held-out prompts of each task.

    Returns {name: {task: {"forward": result, "reverse": result}}}; a result is `exact_kl`'s with "direction",
    "sampled_from", "temperature", "max_new_tokens" and "prompts" (where they come from). One completion is sampled for
    each distinct prompt among the first `prompts_per_task` test rows. Two models are in memory at a time, in float32.

    Raises UserError if the checkpoints are of different models or encode the prompts differently.
    """
    check_same_parameters([Checkpoint(path) for path in (base, *checkpoints.values())])
    rows = {task: get_task(task).load("test", prompts_per_task, seed) for task in tasks}
    base_engine = HFEngine.from_pretrained(base, device=device)
    prompts = {task: distinct_prompts(base_engine, list(rows[task]["prompt"])) for task in tasks}
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=1.0, seed=seed)
    drift: dict[str, dict[str, dict]] = {}
    with tqdm(total=len(tasks) * (1 + len(checkpoints)), desc="kl", unit="task") as progress:
        from_base = {}
        for task in tasks:
            from_base[task] = sample_batches(base_engine, prompts[task], sampling, batch_size)
            progress.update()
        for name, path in checkpoints.items():
            engine = HFEngine.from_pretrained(path, device=device)
            drift[name] = {}
            for task in tasks:
                if engine.encode(prompts[task]) != base_engine.encode(prompts[task]):
                    raise UserError(
                        f"{path} encodes the prompts of {task} differently than {base}; give checkpoints that share "
                        "base's tokenizer and chat template"
                    )
                from_model = sample_batches(engine, prompts[task], sampling, batch_size)
                forward = exact_kl(base_engine.model, engine.model, from_base[task], seed=seed)
                reverse = exact_kl(engine.model, base_engine.model, from_model, seed=seed)
                setting = {
                    "temperature": sampling.temperature,
                    "max_new_tokens": max_new_tokens,
                    "prompts": f"test split of {task}, seed {seed}",
                }
                drift[name][task] = {
                    "forward": forward | {"direction": "KL(base || model)", "sampled_from": "base"} | setting,
                    "reverse": reverse | {"direction": "KL(model || base)", "sampled_from": "model"} | setting,
                }
                progress.update()
    return drift


def distinct_prompts(engine: HFEngine, prompts: list[Messages]) -> list[Messages]:
    """Each prompt once, in order: equal prompts would get equal completions."""
    by_tokens = {tuple(ids): prompt for ids, prompt in zip(engine.encode(prompts), prompts, strict=True)}
    return list(by_tokens.values())


def sample_batches(
    engine: HFEngine, prompts: Sequence[Messages], sampling: Sampling, batch_size: int
) -> list[list[TokenPair]]:
    """One completion of each prompt, as token ids, in batches."""
    batches = []
    for start in range(0, len(prompts), batch_size):
        some = prompts[start : start + batch_size]
        (completions,) = engine.generate(some, sampling)
        batches.append([(ids, made[0].token_ids) for ids, made in zip(engine.encode(some), completions, strict=True)])
    return batches
