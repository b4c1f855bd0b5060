"""Is there a straight line between two solutions without a barrier (linear mode connectivity)?

All checkpoints descend from one base model, so their weights are compared as they stand, without permutation.
Everything is measured through a `Landscape`, so that one comparison has the same prompts and the same references for
every point: `straight_lines` and `part_lines` here, `analysis.behaviour.plane` and `analysis.behaviour.probes`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from analysis.geometry.checkpoints import Source, check_same_parameters, open_checkpoints, opened, parse_name
from analysis.geometry.updates import NO_LAYER
from eval.adapters import score_completions
from eval.errors import UserError
from eval.harness import evaluate_task
from eval.intervals import ratio_with_interval
from eval.log_probs import TokenPair, completion_log_probs, require_plain_output_embedding
from eval.rollout.base import Completion, Messages, Sampling
from eval.rollout.hf import HFEngine
from eval.tasks import Task, TaskSpec, get_task, task_name


# A prompt and the token ids of one completion of it.
Reference = tuple[Messages, list[int]]
# What `measure_point` returns.
Point = dict[str, float | int | None]
# Every parameter's name and float32 value.
Weights = Iterable[tuple[str, torch.Tensor]]
Measure = Callable[[Weights], Point]

# How the parameters of a model can be grouped.
PARTS = ("layer", "kind")


@dataclass(frozen=True)
class Landscape:
    """Reward and loss as a function of the weights, on one task.

    models: checkpoints by name, base first.
    measure: the reward and loss of some weights, as `measure_point` gives them.
    setting: what all measurements share; stands in every result.
    """

    models: dict[str, Source]
    measure: Measure
    setting: dict[str, Any]
    _known: dict[str, Point] = field(default_factory=dict)

    def at(self, name: str) -> Point:
        """What the model called `name` measures, once."""
        if name not in self._known:
            self._known[name] = self.measure(opened(self.models[name]).items())
        return self._known[name]


def interpolate(
    source_a: Source, source_b: Source, t: float, moves: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights (1 - t) a + t b by parameter name, in float32, one tensor after the other.

    Parameters whose name `moves` does not accept stay at a. t = 0 and t = 1 give the stored weights bit for bit. Cast
    the result once, to the type of the model that takes it.
    Raises UserError if the checkpoints are of different models.
    """
    a, b = opened(source_a), opened(source_b)
    check_same_parameters([a, b])
    for name in a.names:
        if t == 0 or not moves(name):
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
    task: TaskSpec,
    size: int,
    points: int,
    seed: int,
    max_new_tokens: int,
    batch_size: int,
    device: str | None = None,
) -> dict:
    """`straight_lines` between every two of base and the checkpoints, on the landscape of a task.

    Raises UserError if there are fewer than 3 points or the checkpoints are of different models.
    """
    check_points(points)
    landscape = task_landscape(base, checkpoints, task, size, seed, max_new_tokens, batch_size, device)
    return straight_lines(landscape, points)


def task_landscape(
    base: Path,
    checkpoints: dict[str, Path],
    task: TaskSpec,
    size: int,
    seed: int,
    max_new_tokens: int,
    batch_size: int,
    device: str | None = None,
) -> Landscape:
    """Reward and loss on `size` test rows of `task`, with one model in memory, in float32.

    The setting is {"task", "size", "seed", "max_new_tokens", "references": see `reference_completions`}. All losses
    are those of the same references, made by base and all checkpoints.

    batch_size: sequences that go through the model at a time.
    Raises UserError if the checkpoints are of different models.
    """
    models: dict[str, Source] = dict(
        zip(["base", *checkpoints], open_checkpoints(base, checkpoints.values()), strict=True)
    )
    scorer = get_task(task)
    size = len(scorer.load("test", size, seed))  # data of one's own may have fewer
    engine = HFEngine.from_pretrained(base, device=device)
    require_plain_output_embedding(engine.model)
    references, counts = reference_completions(engine, models, scorer, size, seed, max_new_tokens, batch_size)

    def measure(weights: Weights) -> Point:
        return measure_point(engine, weights, scorer, size, seed, references, max_new_tokens, batch_size)

    setting = {
        "task": task_name(task),
        "size": size,
        "seed": seed,
        "max_new_tokens": max_new_tokens,
        "references": counts,
    }
    return Landscape(models, measure, setting)


def straight_lines(landscape: Landscape, points: int, pairs: Sequence[tuple[str, str]] | None = None) -> dict:
    """Reward and loss along the straight line between the models of each pair.

    Returns the landscape's setting and "lines": {"base|es": see `line`, ...}.

    points: points on each line, both ends included.
    pairs: names; every two models if None.
    Raises UserError if there are fewer than 3 points or a pair names no model.
    """
    check_points(points)
    models = landscape.models
    pairs = chosen_pairs(models, pairs)
    return {
        **landscape.setting,
        "lines": {
            f"{a}|{b}": line(models[a], models[b], fractions(points), landscape.measure, known)
            for a, b in tqdm(pairs, desc="connectivity, lines", unit="line")
            for known in [{0.0: landscape.at(a), 1.0: landscape.at(b)}]
        },
    }


def part_lines(
    landscape: Landscape, by: str, points: int, pairs: Sequence[tuple[str, str]] | None = None
) -> dict[str, Any]:
    """Straight lines on which one part of the model moves and all else stays, so that a barrier can be located.

    Under "a|b" all parameters are a's, and one part goes from a to b; under "b|a" all are b's, and one part goes from
    b to a. A line ends in a model with one part of another, so its last point is a measurement of its own, and its
    barrier is that over the chord between its own ends. (Layer-wise averaging: Adilova et al., "Layer-wise linear mode
    connectivity", arXiv 2307.06966.)

    Returns the landscape's setting, "by" and "lines": {"a|b": {part: see `line`}, "b|a": {part: ...}, ...}.

    by: "layer" (one layer at a time; "-" is all that lies outside the layers) or "kind" (all q_proj, all k_proj, ...).
    points: points on each line, both ends included.
    pairs: names; every two models if None.
    Raises UserError if there are fewer than 3 points or a pair names no model.
    """
    check_points(points)
    models = landscape.models
    directions = [ends for a, b in chosen_pairs(models, pairs) for ends in ((a, b), (b, a))]
    parts = list(dict.fromkeys(part_of(name, by) for name in opened(models["base"]).names))
    lines: dict[str, dict[str, dict]] = {f"{a}|{b}": {} for a, b in directions}
    with tqdm(total=len(directions) * len(parts), desc=f"connectivity by {by}", unit="line") as progress:
        for a, b in directions:
            for part in parts:
                lines[f"{a}|{b}"][part] = line(
                    models[a],
                    models[b],
                    fractions(points),
                    landscape.measure,
                    {0.0: landscape.at(a)},
                    moves=lambda name, part=part: part_of(name, by) == part,
                )
                progress.update()
    return {**landscape.setting, "by": by, "lines": lines}


def part_of(name: str, by: str) -> str:
    """The part that a parameter belongs to: its layer, "-" outside of the layers, or its kind."""
    layer, kind = parse_name(name)
    if by == "kind":
        return kind
    return NO_LAYER if layer is None else str(layer)


def line(
    source_a: Source,
    source_b: Source,
    ts: Sequence[float],
    measure: Measure,
    known: Mapping[float, Point] | None = None,
    moves: Callable[[str], bool] = lambda name: True,
) -> dict[str, Any]:
    """Measure the weights (1 - t) a + t b for every t; parameters whose name `moves` does not accept stay at a.

    Returns {"ts", "reward", "reward_low", "reward_high", "reward_total", "loss", "loss_low", "loss_high" (a list over
    ts each), "reward_barrier", "loss_barrier"}. Where the losses are None, so is their barrier.

    ts: ascending, from 0 to 1.
    measure: the reward and loss of some weights, as `measure_point` gives them.
    known: what `measure` gave at some t, if it is known already.
    """
    known = known or {}
    points = [
        known[t] if t in known else measure(interpolate(source_a, source_b, t, moves))
        for t in tqdm(ts, desc="line", unit="point", leave=False)
    ]
    columns = {key: [point[key] for point in points] for key in points[0]}
    return {"ts": list(ts), **columns} | {
        "reward_barrier": reward_barrier(ts, columns["reward"]),
        "loss_barrier": None if None in columns["loss"] else barrier(ts, columns["loss"]),
    }


def fractions(points: int) -> list[float]:
    """`points` numbers from 0 to 1, evenly spaced."""
    return [index / (points - 1) for index in range(points)]


def check_points(points: int) -> None:
    if points < 3:
        raise UserError(f"{points} points on a line show no barrier between its ends; give at least 3")


def chosen_pairs(models: Iterable[str], pairs: Sequence[tuple[str, str]] | None) -> list[tuple[str, str]]:
    """`pairs`, or every two models if None. Raises UserError for a name that no model has, or a model with itself."""
    models = list(models)
    if pairs is None:
        return list(combinations(models, 2))
    for pair in pairs:
        check_names(models, pair)
    return list(pairs)


def check_names(models: Iterable[str], names: Sequence[str]) -> None:
    """Raise UserError unless `names` are different models."""
    models = list(models)
    for name in names:
        if name not in models:
            raise UserError(f"there is no model {name!r} here; choose among {', '.join(models)}")
    if len(set(names)) < len(names):
        raise UserError(f"{', '.join(names)} names one model twice; give different models")


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
    models: Mapping[str, Source],
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
    for name, source in tqdm(models.items(), desc="connectivity, references", unit="model"):
        engine.set_weights(opened(source).items())
        completions = greedy_completions(engine, prompts, max_new_tokens, batch_size)
        per_model[name] = 0
        scores = score_completions(
            task, [completion.text for completion in completions], rows, [made.token_ids for made in completions]
        )
        for ids, row, completion, score in zip(prompt_ids, rows, completions, scores, strict=True):
            if score.value == 1.0:
                per_model[name] += 1
                references[ids, tuple(completion.token_ids)] = (row["prompt"], completion.token_ids)
    tokens = sum(len(token_ids) for _, token_ids in references.values())
    counts = {"total": len(references), "tokens": tokens, "prompts": len(rows), "per_model": per_model}
    return list(references.values()), counts


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
    left = torch.tensor([token for _, completion in batch for token in completion])
    losses = []
    for log_probs in completion_log_probs(model, batch):
        targets, left = left[: len(log_probs), None], left[len(log_probs) :]
        losses.append(-log_probs.gather(1, targets.to(log_probs.device))[:, 0].cpu())
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
