"""Does a circuit carry over from a small model to a large one? The transfer table of DFA with all its comparisons.

For every preset, seed and task a map is trained in three regimes: on the task itself ("in_distribution"), on a paired
task ("near") and on all tasks but this one ("zero_shot"). Its rankings stand beside direct attribution on the target
("gold"), the published controls and the baselines of `analysis.circuits.controls`, each with what it asked of the
target model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from statistics import fmean, median, stdev

import torch
from tqdm import tqdm

from analysis.circuits import controls
from analysis.circuits.alignment import PRESETS, ROWS, Preset
from analysis.circuits.batch import Batch
from analysis.circuits.faithfulness import (
    INPUT_POLICIES,
    SHARES,
    Curve,
    Interval,
    gates_of_sizes,
    logit_differences,
    summarise,
)
from analysis.circuits.nodes import CircuitModel
from analysis.circuits.rankings import Rankings, TransferTask, rank_nodes
from eval.errors import UserError


REGIMES = ("in_distribution", "near", "zero_shot")
# Row of the table: what it is.
ROW_TITLES = {
    "gold": "direct attribution on the target",
    "in_distribution": "DFA trained on the task itself",
    "near": "DFA trained on the paired task",
    "zero_shot": "DFA trained on all other tasks",
    "best": "the best of the three",
    "random_w": "untrained map",
    "permuted_w": "zero-shot DFA, columns of the map permuted",
    "scrambled_s": "zero-shot DFA, source scores permuted",
    "depth_mean": "same relative depth, no training",
    "mask_learning": "gates learned on the target, no source",
    "mean_of_masks": "mean of the other tasks' learned gates",
    "nearest_mask": "learned gates of the task nearest in the source",
    "mean_of_gold": "mean of the other tasks' direct attribution",
    "nearest_gold": "direct attribution of the task nearest in the source",
    "equal_compute": "direct attribution for the compute of zero-shot DFA",
    "random_ranking": "random order of the nodes",
}
# Rows whose score vectors stand in the table.
DRAWN = ("gold", "in_distribution", "zero_shot", "mask_learning")


def transfer_table(
    source: CircuitModel,
    target: CircuitModel,
    tasks: Mapping[str, TransferTask],
    presets: Mapping[str, Preset] = PRESETS,
    seeds: Sequence[int] = (0, 1, 2),
    near: Mapping[str, str] | None = None,
    shares: Sequence[float] = SHARES,
    random_rankings: int = 10,
    resamples: int = 1000,
    rows: int = 256,
) -> dict:
    """Every row of ROW_TITLES for every preset and task, measured on the test prompts; JSON-ready.

    near: the paired task of a task; a task without one has no "near". shares, resamples: of `faithfulness_curve`.
    random_rankings: how many the floor is the mean of. rows: prompts that go through the target at once.

    Returns

        {"seeds", "shares", "nodes": {"source", "target"}, "examples": {task: {"source", "train", "validation",
                                                                              "test"}},
         "near", "rows": ROW_TITLES,
         "presets": {preset: {
             "choices": the preset, "input_policy": the one that it is judged by,
             "tasks": {task: {
                 "floor": {policy: cpr of a useless ranking}, "source_scores": [S + 1],
                 "source_compute": passes of the source,
                 "rows": {row: {policy: {"cpr", "cmd", "log_cpr": `spread`, "f": mean per share, "smallest": per run,
                                         "recovery": floor-corrected or null, "published_recovery": cpr / gold},
                                "seeds": [...], or [] if nothing is drawn, "runs", "examples",
                                "compute": passes of the target or null, "compute_ratio": to gold,
                                "chosen": regime per seed ("best" only), "scores": [N] of the first seed (DRAWN only)}}
             }},
             "averages": {row: {policy: {"cpr": mean over tasks, "tasks": how many have the row,
                                         "recovery_mean", "recovery_median", "recovery_tasks": how many have one}}}}}}

    policy is "always" or "ranked", what becomes of `input`, see `faithfulness_curve`; every ranking is measured under
    both. The floor is the mean cpr of random rankings for "always", for "ranked" that of f = 0 until the whole model
    is kept. Compute is in prompts; a backward pass is worth two forward passes.

    Raises UserError for fewer than two tasks, no seeds, or an unknown paired task.
    """
    near = near or {}
    _check(tasks, seeds, near)
    rankings = {name: rank_nodes(source, target, tasks, preset, seeds, near, name) for name, preset in presets.items()}
    tables = {
        task: _task_tables(target, task, prompts, rankings, presets, seeds, shares, random_rankings, resamples, rows)
        for task, prompts in tqdm(tasks.items(), desc="faithfulness", unit="task")
    }
    of_presets = {name: {task: by_preset[name] for task, by_preset in tables.items()} for name in presets}
    return {
        "seeds": list(seeds),
        "shares": list(shares),
        "nodes": {"source": len(source.nodes), "target": len(target.nodes)},
        "examples": {
            task: {split: len(batch) for split, batch in vars(prompts).items()} for task, prompts in tasks.items()
        },
        "near": dict(near),
        "rows": ROW_TITLES,
        "presets": {
            name: {
                "choices": asdict(preset),
                "input_policy": preset.input_policy,
                "tasks": of_presets[name],
                "averages": _averages(of_presets[name]),
            }
            for name, preset in presets.items()
        },
    }


def _task_tables(
    target: CircuitModel,
    task: str,
    prompts: TransferTask,
    rankings: Mapping[str, Rankings],
    presets: Mapping[str, Preset],
    seeds: Sequence[int],
    shares: Sequence[float],
    random_rankings: int,
    resamples: int,
    rows: int,
) -> dict[str, dict]:
    """{preset: table of one task}. The rankings of all presets are measured together: they share circuits."""
    scores = {
        (name, row, seed): ranking
        for name, of_preset in rankings.items()
        for row, by_seed in of_preset.scores[task].items()
        for seed, ranking in by_seed.items()
    }
    random_scores = {
        ("", "random_ranking", seed): controls.random_ranking(len(target.nodes), seed)
        for seed in range(random_rankings)
    }
    test = measure(target, prompts.test, scores | random_scores, shares, resamples, rows)
    choosing = {
        key: ranking
        for key, ranking in scores.items()
        if key[1] in REGIMES and presets[key[0]].select_on == "validation"
    }
    validation = measure(target, prompts.validation, choosing, shares, 1, rows) if choosing else {}
    random_curves = {key[2]: test[key] for key in random_scores}
    floor = {
        "always": fmean(curves["always"].cpr.value for curves in random_curves.values()),
        "ranked": controls.useless_cpr(shares),
    }
    tables = {}
    for name, preset in presets.items():
        by_row = {
            row: {seed: test[name, row, seed] for seed in by_seed}
            for row, by_seed in rankings[name].scores[task].items()
        }
        by_row["random_ranking"] = random_curves
        chosen = _best_regimes(test if preset.select_on == "test" else validation, name, preset, seeds)
        by_row["best"] = {seed: by_row[regime][seed] for seed, regime in chosen.items()}
        tables[name] = _task_table(preset, rankings[name], task, by_row, chosen, floor)
    return tables


def _best_regimes(
    curves: Mapping[tuple, dict[str, Curve]], name: str, preset: Preset, seeds: Sequence[int]
) -> dict[int, str]:
    """{seed: the regime of largest cpr} of one preset; of equal ones the first."""
    return {
        seed: max(
            (row for row in REGIMES if (name, row, seed) in curves),
            key=lambda row, seed=seed: curves[name, row, seed][preset.input_policy].cpr.value,
        )
        for seed in seeds
    }


def measure(
    model: CircuitModel,
    batch: Batch,
    rankings: Mapping[tuple, torch.Tensor],
    shares: Sequence[float],
    resamples: int,
    rows: int = 256,
) -> dict[tuple, dict[str, Curve]]:
    """The curves of many rankings under both policies for `input`, in one sweep over the prompts.

    Circuits that several rankings share run once. One without `input` sees nothing of the clean prompt: it is the
    corrupted run, and is not run.
    """
    gates, sizes = [], {}
    for policy in INPUT_POLICIES:
        sizes[policy] = [int(share * (len(model.nodes) - (policy == "always"))) for share in shares]
        gates += [gates_of_sizes(model, scores, sizes[policy], policy, "signed") for scores in rankings.values()]
    gates = torch.cat(gates)
    gates = gates * gates[:, :1]
    batches = [part.to(model.device) for part in batch.split(ROWS)]
    differences = logit_differences(model, batches, gates, rows=rows)
    parts = iter(differences.circuits.split(len(shares)))
    curves: dict[tuple, dict[str, Curve]] = {key: {} for key in rankings}
    for policy in INPUT_POLICIES:
        for key in rankings:
            of_ranking = replace(differences, circuits=next(parts))
            curves[key][policy] = summarise(
                of_ranking, shares, sizes[policy], policy, "signed", "counterfactual", resamples=resamples
            )
    return curves


def spread(intervals: Sequence[Interval]) -> dict:
    """{"mean", "sd" over runs (null for one), "values": per run, "low", "high"}.

    low and high are means over runs of the ends of the 95 % interval over examples.
    """
    values = [interval.value for interval in intervals]
    return {
        "mean": fmean(values),
        "sd": stdev(values) if len(values) > 1 else None,
        "values": values,
        "low": fmean(interval.low for interval in intervals),
        "high": fmean(interval.high for interval in intervals),
    }


def _check(tasks: Mapping[str, TransferTask], seeds: Sequence[int], near: Mapping[str, str]) -> None:
    if len(tasks) < 2:
        raise UserError(f"{len(tasks)} task to transfer; zero-shot transfer leaves one out, so give at least two")
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"seeds {list(seeds)} of a transfer table; give at least one, each once")
    for task, other in near.items():
        if task not in tasks or other not in tasks or task == other:
            raise UserError(f"near pairs {task!r} with {other!r}; pair two different tasks of {', '.join(tasks)}")


def _task_table(
    preset: Preset,
    rankings: Rankings,
    task: str,
    by_row: Mapping[str, Mapping[int | None, dict[str, Curve]]],
    chosen: Mapping[int, str],
    floor: Mapping[str, float],
) -> dict:
    gold_passes = rankings.passes[task]["gold"].equivalents
    entries = {}
    for row in (row for row in ROW_TITLES if row in by_row):
        passes = rankings.passes[task].get(row)
        curves = list(by_row[row].values())
        entries[row] = {
            policy: _curves_summary(
                [of_run[policy] for of_run in curves], by_row["gold"][None][policy].cpr.value, floor[policy]
            )
            for policy in INPUT_POLICIES
        } | {
            "seeds": [seed for seed in by_row[row] if seed is not None],
            "runs": len(curves),
            "examples": len(curves[0]["always"].differences.clean),
            "compute": None if passes is None else passes.as_dict(),
            "compute_ratio": None if passes is None else passes.equivalents / gold_passes,
        }
        if row in DRAWN:
            entries[row]["scores"] = next(iter(rankings.scores[task][row].values())).tolist()
    entries["best"]["chosen"] = {str(seed): regime for seed, regime in chosen.items()}
    entries["best"]["chosen_on"] = preset.select_on
    return {
        "floor": dict(floor),
        "source_scores": rankings.source_scores[task].tolist(),
        "source_compute": rankings.source_passes[task].as_dict(),
        "rows": entries,
    }


def _curves_summary(curves: Sequence[Curve], gold: float, floor: float) -> dict:
    cpr = spread([curve.cpr for curve in curves])
    return {
        "cpr": cpr,
        "cmd": spread([curve.cmd for curve in curves]),
        "log_cpr": spread([curve.log_cpr for curve in curves]),
        "f": [fmean(interval.value for interval in of_share) for of_share in zip(*(c.f for c in curves), strict=True)],
        "smallest": [curve.smallest for curve in curves],
        "recovery": controls.recovery(cpr["mean"], gold, floor),
        "published_recovery": cpr["mean"] / gold if gold else None,
    }


def _averages(tables: Mapping[str, dict]) -> dict:
    averages = {}
    for row in ROW_TITLES:
        entries = [table["rows"][row] for table in tables.values() if row in table["rows"]]
        if not entries:
            continue
        averages[row] = {}
        for policy in INPUT_POLICIES:
            recoveries = [entry[policy]["recovery"] for entry in entries]
            recoveries = [value for value in recoveries if value is not None]
            averages[row][policy] = {
                "cpr": fmean(entry[policy]["cpr"]["mean"] for entry in entries),
                "tasks": len(entries),
                "recovery_mean": fmean(recoveries) if recoveries else None,
                "recovery_median": median(recoveries) if recoveries else None,
                "recovery_tasks": len(recoveries),
            }
    return averages
