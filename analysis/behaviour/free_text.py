"""How far models have moved from their base on free text that neither of them wrote, and that no task is about.

On sampled completions KL says how differently two models answer; here it says how differently they read: at every
position of a text, what comes next given the text so far. Both directions are taken at the same positions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from analysis.behaviour.kl import token_kl
from analysis.geometry.checkpoints import open_checkpoints
from eval.errors import UserError
from eval.intervals import ratio_with_interval
from eval.log_probs import TokenPair, completion_log_probs, require_plain_output_embedding
from eval.perplexity import in_batches, passage_pieces, summary
from eval.rollout.hf import HFEngine


ESTIMATOR = "exact full-vocabulary sum at each position of a fixed text"
QUANTITIES = ("forward", "reverse", "base", "model")
DIRECTIONS = {"forward": "KL(base || model)", "reverse": "KL(model || base)"}


def text_kl(
    base: Path,
    checkpoints: dict[str, Path],
    passages: Sequence[str],
    batch_size: int,
    seed: int = 0,
    device: str | None = None,
) -> dict[str, dict[str, Any]]:
    """KL between base and each checkpoint, in both directions, and the perplexity of both, on a text in passages.

    Returns {name: {"forward", "reverse": see `divergence`, "perplexity": {"base", "model": see `eval.perplexity`}}}.
    Intervals are over the choice of passages. Two models are in memory at a time, in float32.

    batch_size: pieces of text that run together.

    Raises UserError if the checkpoints are of different models or encode the text differently.
    """
    open_checkpoints(base, checkpoints.values())
    origin = HFEngine.from_pretrained(base, device=device)
    pieces = passage_pieces(origin.tokenizer, passages)

    # A function of its own, so that one checkpoint is out of memory before the next is loaded.
    def drift_of(path: Path) -> dict[str, Any]:
        engine = HFEngine.from_pretrained(path, device=device, base=base)
        if passage_pieces(engine.tokenizer, passages) != pieces:
            raise UserError(f"{path} encodes the text differently than {base}; give checkpoints with base's tokenizer")
        sums = {quantity: [0.0] * len(passages) for quantity in QUANTITIES}
        counts = [0] * len(passages)
        for numbers, batch in in_batches(pieces, batch_size):
            for place, values in enumerate(piece_sums(origin, engine, batch)):
                counts[numbers[place]] += len(batch[place][1])
                for quantity, value in values.items():
                    sums[quantity][numbers[place]] += value
        return {
            **{direction: divergence(sums[direction], counts, direction, seed) for direction in DIRECTIONS},
            "perplexity": {model: summary(sums[model], counts, seed) for model in ("base", "model")},
        }

    return {name: drift_of(path) for name, path in tqdm(checkpoints.items(), desc="kl on text", unit="model")}


def piece_sums(base: HFEngine, model: HFEngine, batch: Sequence[TokenPair]) -> list[dict[str, float]]:
    """For each piece the sums over its tokens: KL in both directions, and the negative log-probabilities of both."""
    for engine in (base, model):
        require_plain_output_embedding(engine.model)
    left = torch.tensor([token for _, completion in batch for token in completion])
    values: dict[str, list[torch.Tensor]] = {quantity: [] for quantity in QUANTITIES}
    chunks = (completion_log_probs(engine.model, batch) for engine in (base, model))
    for p, q in zip(*chunks, strict=True):
        q, chosen, left = q.to(p.device), left[: len(p), None].to(p.device), left[len(p) :]
        found = (token_kl(p, q), token_kl(q, p), -p.gather(1, chosen)[:, 0], -q.gather(1, chosen)[:, 0])
        for quantity, value in zip(QUANTITIES, found, strict=True):
            values[quantity].append(value.cpu())
    lengths = [len(completion) for _, completion in batch]
    by_quantity = {quantity: torch.cat(parts).split(lengths) for quantity, parts in values.items()}
    return [
        {quantity: by_quantity[quantity][place].sum().item() for quantity in QUANTITIES} for place in range(len(batch))
    ]


def divergence(sums: Sequence[float], counts: Sequence[int], direction: str, seed: int) -> dict[str, Any]:
    """{"per_token" in nats, its 95 % interval "per_token_low" and "per_token_high", "tokens", "passages", ...}.

    sums, counts: of each passage, over its tokens.
    """
    mean, low, high = ratio_with_interval(sums, counts, seed)
    return {
        "per_token": mean,
        "per_token_low": low,
        "per_token_high": high,
        "tokens": sum(counts),
        "passages": len(counts),
        "direction": DIRECTIONS[direction],
        "estimator": ESTIMATOR,
    }
