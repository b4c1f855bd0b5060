"""Where a circuit moved under post-training: an alignment W = I + delta from old scores to the new circuit.

If every component still does what it did, identity ranks the new model's nodes as well as any W. What delta adds to
the faithfulness of the ranking is what moved, and its entries by layer shift and kind say from where to where.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from analysis.circuits.alignment import PRESETS, Preset, Scores, map_input, node_scores, train_map
from analysis.circuits.batch import Batch
from analysis.circuits.faithfulness import SHARES, Curve, area, faithfulness_curve
from analysis.circuits.maps import AlignmentMap, Layout, make_map, migration
from analysis.circuits.nodes import CircuitModel
from analysis.statistics import percentile_interval, resample_counts


# So that delta stays near 0 between two samples of one model's examples (tried on 21 nodes; a penalty is per entry).
PENALTY_PER_ENTRY = 0.07
LEARNING_RATE = 0.03


def migration_preset(nodes: int, preset: Preset = PRESETS["corrected"]) -> Preset:
    """`preset` with the map I + delta between `nodes` nodes."""
    penalty = PENALTY_PER_ENTRY * nodes**2  # of the mean of |delta|
    return replace(preset, map="identity-delta", map_penalty=penalty, learning_rate=LEARNING_RATE)


def migrations(
    models: Mapping[str, CircuitModel],
    batches: Mapping[str, Mapping[str, Batch]],
    seed: int,
    resamples: int,
    rows: int,
    preset: Preset | None = None,
) -> dict[str, Any]:
    """An alignment from each model to each other one, and from the first to itself on other examples (the null).

    batches: {"source", "train", "validation", "test"} -> {task: batch}, disjoint. Source scores come from "source";
    a map is trained on "train" of all tasks, its epoch chosen on "validation", and it is judged on "test".

    Returns {"a>b": {"delta": sum of |delta|, "matrix": see `maps.migration`, "losses", "epoch", "passes", "tasks":
    {task: {"identity", "mapped": CPR of either ranking in b, "gain": their difference with "low", "high"}}}}. The
    interval is a paired bootstrap over examples.
    """
    base = next(iter(models))
    preset = migration_preset(len(models[base].nodes) - 1) if preset is None else preset
    directions = [(one, other) for one in models for other in models if one != other]
    scores = {
        name: {task: node_scores(model, batch, preset) for task, batch in batches["source"].items()}
        for name, model in models.items()
    }
    return {
        f"{one}>{other}": _migration(models[other], scores[one], batches, seed, resamples, rows, preset)
        for one, other in [(base, base), *directions]
    }


def _migration(
    target: CircuitModel,
    scores: Mapping[str, Scores],
    batches: Mapping[str, Mapping[str, Batch]],
    seed: int,
    resamples: int,
    rows: int,
    preset: Preset,
) -> dict[str, Any]:
    layout = Layout.of(target)
    alignment = make_map(preset.map, layout, layout, seed)
    training = train_map(alignment, target, scores, batches["train"], preset, seed, batches["validation"])
    tasks = {}
    for task, batch in batches["test"].items():
        test = [part.to(target.device) for part in batch.split(rows)]
        identity, mapped = (
            faithfulness_curve(target, test, ranking, SHARES, resamples=resamples, seed=seed, rows=rows)
            for ranking in (scores[task].mean, _moved(alignment, scores[task], preset))
        )
        tasks[task] = {"identity": identity.cpr.value, "mapped": mapped.cpr.value, **gain(identity, mapped, seed)}
    return {
        "delta": alignment.delta.detach().abs().sum().item(),
        "matrix": migration(alignment.delta, layout),
        "losses": training.losses,
        "epoch": training.epoch,
        "passes": training.passes.as_dict(),
        "tasks": tasks,
    }


def _moved(alignment: AlignmentMap, scores: Scores, preset: Preset) -> torch.Tensor:
    """[N] scores s W. Without the map's offsets, which are for the size of a circuit and not for what is in it."""
    with torch.no_grad():
        return torch.cat([torch.zeros(1), map_input(scores, preset) @ alignment.matrix()]).double()


def gain(before: Curve, after: Curve, seed: int, resamples: int = 1000) -> dict[str, float]:
    """CPR of `after` minus CPR of `before`, on the same examples, with a paired 95 % bootstrap interval."""
    counts = resample_counts(len(before.differences.clean), resamples, torch.Generator().manual_seed(seed))
    areas = [area(curve.differences.faithfulness(counts), curve.shares) for curve in (before, after)]
    low, high = percentile_interval(areas[1] - areas[0])
    return {"gain": after.cpr.value - before.cpr.value, "low": low, "high": high}
