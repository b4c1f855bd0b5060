"""Does a circuit carry over from a small model to a large one? The transfer table of DFA with all its comparisons.

For every preset, seed and task a map is trained in three regimes: on the task itself ("in_distribution"), on a paired
task ("near") and on all tasks but this one ("zero_shot"). Its rankings stand beside direct attribution on the target
("gold"), the published controls and the baselines of `analysis.circuits.controls`, each with what it asked of the
target model.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median, stdev

import torch
from torch.nn import functional
from tqdm import tqdm

from analysis.circuits import controls
from analysis.circuits.alignment import (
    PRESETS,
    ROWS,
    Preset,
    Scores,
    aligned_scores,
    map_input,
    node_scores,
    train_map,
)
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
from analysis.circuits.maps import AlignmentMap, Layout, make_map, weight_statistics
from analysis.circuits.nodes import CircuitModel
from analysis.circuits.passes import Passes, count_passes
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


@dataclass(frozen=True, eq=False)
class TransferTask:
    """The prompts of one task, padded, in one batch each.

    source: with the source's tokenizer; scores the source's nodes. train: with the target's; trains maps, and is what
    direct attribution on the target gets. validation, test: with the target's. No prompt of one is in another.
    """

    source: Batch
    train: Batch
    validation: Batch
    test: Batch


@dataclass(frozen=True, eq=False)
class Rankings:
    """What one preset says of every task.

    scores: [N] by task, row and seed; the seed is None where nothing is drawn. passes: of the target, by task and row,
    for one seed. source_passes: of the source, by task.
    """

    scores: dict[str, dict[str, dict[int | None, torch.Tensor]]]
    passes: dict[str, dict[str, Passes]]
    source_scores: dict[str, torch.Tensor]
    source_passes: dict[str, Passes]

    def put(self, task: str, row: str, seed: int | None, scores: torch.Tensor, passes: Passes) -> None:
        self.scores[task].setdefault(row, {})[seed] = scores
        self.passes[task][row] = passes


def one_change_at_a_time() -> dict[str, Preset]:
    """ "paper", and "paper" with each single choice that the corrected preset makes otherwise: which one matters?

    The two choices about the released estimator change together: without either, it is not needed.
    """
    paper, corrected = PRESETS["paper"], PRESETS["corrected"]
    found = {"paper": paper}
    sound = {"rule": corrected.rule, "mlp_gradient": "output", "accumulate_in_model_type": False}
    found["paper, scores corrected"] = replace(paper, **sound)
    for name, value in asdict(corrected).items():
        if name not in sound and value != getattr(paper, name):
            found[f"paper, {name} {value}"] = replace(paper, **{name: value})
    return found


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
    of_random = {seed: controls.random_ranking(len(target.nodes), seed) for seed in range(random_rankings)}
    measured = {name: {} for name in presets}
    floors = {}
    for task, prompts in tqdm(tasks.items(), desc="faithfulness", unit="task"):
        keyed = {
            (name, row, seed): scores
            for name, found in rankings.items()
            for row, by_seed in found.scores[task].items()
            for seed, scores in by_seed.items()
        }
        random_keys = {("", "random_ranking", seed): scores for seed, scores in of_random.items()}
        test = measure(target, prompts.test, keyed | random_keys, shares, resamples, rows)
        choosing = {key: scores for key, scores in keyed.items() if key[1] in REGIMES}
        choosing = {key: scores for key, scores in choosing.items() if presets[key[0]].select_on == "validation"}
        validation = measure(target, prompts.validation, choosing, shares, 1, rows) if choosing else {}
        random_curves = {seed: test["", "random_ranking", seed] for seed in of_random}
        floors[task] = {
            "always": fmean(curves["always"].cpr.value for curves in random_curves.values()),
            "ranked": controls.useless_cpr(shares),
        }
        for name, preset in presets.items():
            by_row = {
                row: {seed: test[name, row, seed] for seed in by_seed}
                for row, by_seed in rankings[name].scores[task].items()
            }
            by_row["random_ranking"] = random_curves
            split = test if preset.select_on == "test" else validation
            chosen = {
                seed: max(
                    (row for row in REGIMES if row in by_row),
                    key=lambda row, seed=seed: split[name, row, seed][preset.input_policy].cpr.value,
                )
                for seed in seeds
            }
            by_row["best"] = {seed: by_row[row][seed] for seed, row in chosen.items()}
            measured[name][task] = (by_row, chosen)
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
            name: _preset_table(preset, rankings[name], measured[name], floors) for name, preset in presets.items()
        },
    }


def rank_nodes(
    source: CircuitModel,
    target: CircuitModel,
    tasks: Mapping[str, TransferTask],
    preset: Preset,
    seeds: Sequence[int],
    near: Mapping[str, str],
    name: str = "",
) -> Rankings:
    """The scores of every row of one preset, but "best" and "random_ranking", and what they cost."""
    layouts = Layout.of(source), Layout.of(target)
    source_scores, source_passes, gold, gold_passes = {}, {}, {}, {}
    for task, prompts in tasks.items():
        with count_passes(source) as source_passes[task]:
            source_scores[task] = node_scores(source, prompts.source, preset)
        with count_passes(target) as gold_passes[task]:
            gold[task] = node_scores(target, prompts.train, preset)
    given = {task: map_input(scores, preset) for task, scores in source_scores.items()}
    found = Rankings(
        {task: {} for task in tasks},
        {task: {} for task in tasks},
        {task: scores.mean for task, scores in source_scores.items()},
        source_passes,
    )
    statistics = _statistics(source, target, preset)

    def start(names: Iterable[str], seed: int) -> AlignmentMap:
        features = _map_features(statistics, preset, [(source_scores[one], gold[one]) for one in names])
        return make_map(preset.map, *layouts, seed, preset.rank, *features)

    def built_on(names: Sequence[str]) -> Passes:
        """What an untrained map costs: a transport map knows the gold scores of its training tasks."""
        return sum((gold_passes[one] for one in names if preset.map == "transport"), start=Passes())

    def train(names: Sequence[str], seed: int) -> tuple[AlignmentMap, Passes]:
        training = train_map(
            start(names, seed),
            target,
            source_scores,
            {one: tasks[one].train for one in names},
            preset,
            seed,
            {one: tasks[one].validation for one in names},
        )
        return training.map, training.passes + built_on(names)

    for seed in seeds:
        own, masks = {}, {}
        for task, prompts in tqdm(tasks.items(), desc=f"{name} seed {seed}", unit="task"):
            own[task] = train([task], seed)
            scores, training = controls.learn_masks(target, prompts.train, preset, seed, prompts.validation)
            masks[task] = scores, training.passes
        for task in tqdm(tasks, desc=f"{name} seed {seed}, zero-shot", unit="task"):
            others = [one for one in tasks if one != task]
            nearest = controls.nearest_task(task, given)
            zero_shot, cost = train(others, seed)
            found.put(task, "in_distribution", seed, aligned_scores(own[task][0], given[task]), own[task][1])
            if task in near:
                alignment, near_cost = own[near[task]]
                found.put(task, "near", seed, aligned_scores(alignment, given[task]), near_cost)
            found.put(task, "zero_shot", seed, aligned_scores(zero_shot, given[task]), cost)
            found.put(task, "random_w", seed, aligned_scores(start(others, seed), given[task]), built_on(others))
            found.put(task, "permuted_w", seed, controls.permuted_columns(zero_shot, given[task], seed), cost)
            mixed = controls.scrambled(given[task], task, seed)
            found.put(task, "scrambled_s", seed, aligned_scores(zero_shot, mixed), cost)
            found.put(task, "mask_learning", seed, *masks[task])
            others_masks = [masks[one] for one in others]
            found.put(
                task,
                "mean_of_masks",
                seed,
                controls.mean_of_tasks([scores for scores, _ in others_masks]),
                sum((passes for _, passes in others_masks), start=Passes()),
            )
            found.put(task, "nearest_mask", seed, *masks[nearest])

    for task, prompts in tasks.items():
        others = [one for one in tasks if one != task]
        nearest = controls.nearest_task(task, given)
        found.put(task, "gold", None, gold[task].mean, gold_passes[task])
        found.put(task, "depth_mean", None, controls.depth_mean(given[task], *layouts), Passes())
        mean = controls.mean_of_tasks([gold[one].mean for one in others])
        found.put(task, "mean_of_gold", None, mean, sum((gold_passes[one] for one in others), start=Passes()))
        found.put(task, "nearest_gold", None, gold[nearest].mean, gold_passes[nearest])
        count, steps = controls.affordable(
            found.passes[task]["zero_shot"].equivalents,
            gold_passes[task].equivalents / len(prompts.train),
            len(prompts.train),
            preset.steps,
            # One more point on the path is one forward and one backward pass.
            step_cost=3 if preset.method == "nap-ig-inputs" else 0,
        )
        with count_passes(target) as passes:
            scores = node_scores(target, prompts.train.select(slice(0, count)), preset, steps).mean
        found.put(task, "equal_compute", None, scores, passes)
    return found


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


def auroc(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Chance that a node of the circuit ranks above one outside of it, ties counting half.

    scores, positive: [N] numbers and bools. Raises ValueError if either kind is missing.
    """
    inside, outside = scores[positive], scores[~positive]
    if not len(inside) or not len(outside):
        raise ValueError("AUROC needs nodes inside and outside of the circuit")
    above = (inside[:, None] > outside).double() + 0.5 * (inside[:, None] == outside)
    return above.mean().item()


def _check(tasks: Mapping[str, TransferTask], seeds: Sequence[int], near: Mapping[str, str]) -> None:
    if len(tasks) < 2:
        raise UserError(f"{len(tasks)} task to transfer; zero-shot transfer leaves one out, so give at least two")
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"seeds {list(seeds)} of a transfer table; give at least one, each once")
    for task, other in near.items():
        if task not in tasks or other not in tasks or task == other:
            raise UserError(f"near pairs {task!r} with {other!r}; pair two different tasks of {', '.join(tasks)}")


def _statistics(source: CircuitModel, target: CircuitModel, preset: Preset) -> list[torch.Tensor] | None:
    if preset.map not in ("feature-tied", "transport"):
        return None
    return [weight_statistics(source), weight_statistics(target)]


def _map_features(
    statistics: list[torch.Tensor] | None, preset: Preset, scores: Sequence[tuple[Scores, Scores]]
) -> list[torch.Tensor | None]:
    """[source's, target's] statistics of nodes for `make_map`.

    A transport map also gets a node's profile: its score, in units of the root mean square over nodes, in each
    training task, of the source's own nodes and of the target's by direct attribution.
    """
    if statistics is None:
        return [None, None]
    if preset.map == "feature-tied":
        return statistics
    found = []
    for place, known in enumerate(statistics):
        profiles = [functional.normalize(pair[place].mean[1:].float(), dim=0) * len(known) ** 0.5 for pair in scores]
        found.append(torch.cat([known, torch.stack(profiles, dim=1)], dim=1))
    return found


def _preset_table(preset: Preset, rankings: Rankings, measured: dict, floors: dict) -> dict:
    tables = {}
    for task, (by_row, chosen) in measured.items():
        table_rows = {}
        gold_passes = rankings.passes[task]["gold"].equivalents
        for row in ROW_TITLES:
            if row not in by_row:
                continue
            passes = rankings.passes[task].get(row)
            entry = {
                policy: _curves_summary(
                    [curves[policy] for curves in by_row[row].values()],
                    by_row["gold"][None][policy].cpr.value,
                    floors[task][policy],
                )
                for policy in INPUT_POLICIES
            }
            entry["seeds"] = [seed for seed in by_row[row] if seed is not None]
            entry["runs"] = len(by_row[row])
            entry["examples"] = len(next(iter(by_row[row].values()))["always"].differences.clean)
            entry["compute"] = None if passes is None else passes.as_dict()
            entry["compute_ratio"] = None if passes is None else passes.equivalents / gold_passes
            if row == "best":
                entry["chosen"] = {str(seed): regime for seed, regime in chosen.items()}
                entry["chosen_on"] = preset.select_on
            if row in DRAWN:
                entry["scores"] = next(iter(rankings.scores[task][row].values())).tolist()
            table_rows[row] = entry
        tables[task] = {
            "floor": floors[task],
            "source_scores": rankings.source_scores[task].tolist(),
            "source_compute": rankings.source_passes[task].as_dict(),
            "rows": table_rows,
        }
    return {
        "choices": asdict(preset),
        "input_policy": preset.input_policy,
        "tasks": tables,
        "averages": _averages(tables),
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
