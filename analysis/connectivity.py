"""Is there a straight line between two solutions without a barrier (linear mode connectivity)?

All checkpoints descend from one base model, so their weights are compared as they stand, without permutation.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from analysis.kl import TokenPair, completion_log_probs, ratio_with_interval, require_plain_output_embedding
from analysis.weights import Checkpoint, check_same_parameters
from eval.errors import UserError
from eval.harness import evaluate_task
from eval.rollout.base import Completion, Messages, Sampling
from eval.rollout.hf import HFEngine
from eval.tasks import Task, get_task


# A prompt and the token ids of one completion of it.
Reference = tuple[Messages, list[int]]
# What `measure_point` returns.
Point = dict[str, float | int | None]


def interpolate(path_a: Path, path_b: Path, t: float) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights (1 - t) a + t b by parameter name, in float32, one tensor after the other.

    t = 0 and t = 1 give the stored weights bit for bit. Cast the result once, to the type of the model that takes it.
    Raises UserError if the checkpoints are of different models.
    """
    a, b = Checkpoint(path_a), Checkpoint(path_b)
    check_same_parameters([a, b])
    for name in a.names:
        if t == 0:
            yield name, a.read(name)
        elif t == 1:
            yield name, b.read(name)
        else:
            yield name, torch.lerp(a.read(name), b.read(name), t)


def barrier(ts: Sequence[float], losses: Sequence[float]) -> float:
    """max over t of L(t) - ((1 - t) L(0) + t L(1)): how far the loss rises above the chord between its ends.

    0 if it nowhere does (the ends count). In the units of `losses`. The maximum is a biased estimate: noise in the
    losses makes it larger, never smaller. `ts` ascend from 0 to 1.
    """
    if ts[0] != 0 or ts[-1] != 1:
        raise ValueError(f"a barrier needs losses from t = 0 to t = 1, not from {ts[0]} to {ts[-1]}")
    # lerp counts from the nearer end, so that both ends give exactly 0.
    chord = torch.lerp(
        torch.tensor(losses[0], dtype=torch.float64),
        torch.tensor(losses[-1], dtype=torch.float64),
        torch.tensor(ts, dtype=torch.float64),
    )
    return (torch.tensor(losses, dtype=torch.float64) - chord).max().item()


def reward_barrier(ts: Sequence[float], rewards: Sequence[float]) -> float:
    """How far the reward falls below the chord between its ends; 0 if it nowhere does."""
    return barrier(ts, [-reward for reward in rewards])


def connectivity(
    base: Path,
    checkpoints: dict[str, Path],
    task: str,
    size: int,
    points: int,
    seed: int,
    max_new_tokens: int,
    batch_size: int,
    device: str | None = None,
) -> dict:
    """Reward and loss along the straight line between every two of base and the checkpoints.

    Returns {"task", "size", "seed", "max_new_tokens", "references": see `reference_completions`, "lines": {"base|es":
    see `line`, ...}}. All points are measured on the same `size` test rows, and all losses on the same references.

    points: points on each line, both ends included.
    batch_size: sequences that go through the model at a time.
    Raises UserError if there are fewer than 3 points or the checkpoints are of different models.
    """
    if points < 3:
        raise UserError(f"{points} points on a line show no barrier between its ends; give at least 3")
    models = {"base": base, **checkpoints}
    check_same_parameters([Checkpoint(path) for path in models.values()])
    scorer = get_task(task)
    engine = HFEngine.from_pretrained(base, device=device)
    require_plain_output_embedding(engine.model)
    references, counts = reference_completions(engine, models, scorer, size, seed, max_new_tokens, batch_size)

    def measure(weights: Iterable[tuple[str, torch.Tensor]]) -> Point:
        return measure_point(engine, weights, scorer, size, seed, references, max_new_tokens, batch_size)

    ts = [index / (points - 1) for index in range(points)]
    ends = {
        name: measure(Checkpoint(path).items())
        for name, path in tqdm(models.items(), desc="connectivity, ends", unit="model")
    }
    return {
        "task": task,
        "size": size,
        "seed": seed,
        "max_new_tokens": max_new_tokens,
        "references": counts,
        "lines": {
            f"{a}|{b}": line(models[a], models[b], ts, measure, ends=(ends[a], ends[b]))
            for a, b in tqdm(list(combinations(models, 2)), desc="connectivity, lines", unit="line")
        },
    }


def line(
    path_a: Path,
    path_b: Path,
    ts: Sequence[float],
    measure: Callable[[Iterable[tuple[str, torch.Tensor]]], Point],
    ends: tuple[Point, Point] | None = None,
) -> dict:
    """Measure the weights (1 - t) a + t b for every t.

    Returns {"ts", "reward", "reward_low", "reward_high", "reward_total", "loss", "loss_low", "loss_high" (a list over
    ts each), "reward_barrier", "loss_barrier"}. Where the losses are None, so is their barrier.

    ts: ascending, from 0 to 1.
    measure: the reward and loss of some weights, as `measure_point` gives them.
    ends: what `measure` gave for a and b, if it is known already.
    """
    known = {} if ends is None else {0: ends[0], 1: ends[1]}
    curve = [
        known[t] if t in known else measure(interpolate(path_a, path_b, t))
        for t in tqdm(ts, desc="line", unit="point", leave=False)
    ]
    result: dict[str, Any] = {"ts": list(ts)} | {key: [point[key] for point in curve] for key in curve[0]}
    result["reward_barrier"] = reward_barrier(ts, result["reward"])
    result["loss_barrier"] = None if None in result["loss"] else barrier(ts, result["loss"])
    return result


def measure_point(
    engine: HFEngine,
    weights: Iterable[tuple[str, torch.Tensor]],
    task: Task,
    size: int,
    seed: int,
    references: Sequence[Reference],
    max_new_tokens: int,
    batch_size: int,
) -> Point:
    """Reward and loss of one set of weights, which the engine keeps.

    reward: accuracy of greedy decoding on `size` test rows, with its 95 % interval, as `evaluate_task` defines them;
        reward_total is the number of rows that could be scored.
    loss: negative log-likelihood in nats per token of the references under teacher forcing, prompts excluded, with a
        95 % bootstrap interval over references; None without references.

    Raises UserError if no row can be scored.
    """
    engine.set_weights(weights)
    evaluation = evaluate_task(engine, task, "test", size, seed, Sampling(max_new_tokens), batch_size)
    if not evaluation["total"]:
        raise UserError(f"none of {size} test rows of {task.name} can be scored; check the task's reference answers")
    loss, loss_low, loss_high = reference_loss(engine, references, batch_size, seed)
    return {
        "reward": evaluation["accuracy"],
        "reward_low": evaluation["low"],
        "reward_high": evaluation["high"],
        "reward_total": evaluation["total"],
        "loss": loss,
        "loss_low": loss_low,
        "loss_high": loss_high,
    }


def reference_completions(
    engine: HFEngine,
    models: dict[str, Path],
    task: Task,
    size: int,
    seed: int,
    max_new_tokens: int,
    batch_size: int,
) -> tuple[list[Reference], dict]:
    """The right (score 1.0) greedy completions of `size` test prompts by all models, each once, and their counts.

    The same completion of the same prompt by two models is one reference. Each model's completions pull the
    loss towards it, so the union over all models of a comparison is used for all of its lines.

    The counts are {"total": references, "tokens": their tokens, "prompts": rows, "per_model": {name: right completions
    of this model}}. The engine keeps the last model's weights.
    """
    rows = task.load("test", size, seed).to_list()
    prompts = [row["prompt"] for row in rows]
    prompt_ids = [tuple(ids) for ids in engine.encode(prompts)]
    references: dict[tuple, Reference] = {}
    per_model = {}
    for name, path in tqdm(models.items(), desc="connectivity, references", unit="model"):
        engine.set_weights(Checkpoint(path).items())
        completions = greedy_completions(engine, prompts, max_new_tokens, batch_size)
        per_model[name] = 0
        for ids, row, completion in zip(prompt_ids, rows, completions, strict=True):
            if task.score(completion.text, row).value == 1.0:
                per_model[name] += 1
                references[ids, tuple(completion.token_ids)] = (row["prompt"], completion.token_ids)
    found = list(references.values())
    tokens = sum(len(token_ids) for _, token_ids in found)
    return found, {"total": len(found), "tokens": tokens, "prompts": len(rows), "per_model": per_model}


def reference_loss(
    engine: HFEngine, references: Sequence[Reference], batch_size: int, seed: int
) -> tuple[float, float, float] | tuple[None, None, None]:
    """Negative log-likelihood per token of the references and its interval (loss, low, high); None without any."""
    if not references:
        return None, None, None
    prompt_ids = engine.encode([prompt for prompt, _ in references])
    pairs = [(ids, token_ids) for ids, (_, token_ids) in zip(prompt_ids, references, strict=True)]
    sums = [
        loss.sum().item()
        for start in range(0, len(pairs), batch_size)
        for loss in completion_loss(engine.model, pairs[start : start + batch_size])
    ]
    return ratio_with_interval(sums, [len(completion) for _, completion in pairs], seed)


def completion_loss(model: PreTrainedModel, batch: Sequence[TokenPair]) -> tuple[torch.Tensor, ...]:
    """Negative log-likelihood of each completion token: one float64 [completion length] tensor for each sequence."""
    lengths = [len(completion) for _, completion in batch]
    targets = torch.tensor([token for _, completion in batch for token in completion])
    losses = []
    for log_probs in completion_log_probs(model, batch):
        done = sum(map(len, losses))
        chunk = targets[done : done + len(log_probs), None].to(log_probs.device)
        losses.append(-log_probs.gather(1, chunk)[:, 0].cpu())
    return torch.cat(losses).split(lengths)


def greedy_completions(
    engine: HFEngine, prompts: Sequence[Messages], max_new_tokens: int, batch_size: int
) -> list[Completion]:
    """One greedy completion of each prompt with the engine's weights."""
    sampling = Sampling(max_new_tokens=max_new_tokens)
    completions = []
    for start in range(0, len(prompts), batch_size):
        (batch,) = engine.generate(prompts[start : start + batch_size], sampling)
        completions += [samples[0] for samples in batch]
    return completions
