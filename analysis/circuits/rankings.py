"""Every ranking of a target's nodes that a transfer is judged by: DFA, direct attribution, controls and baselines."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from tqdm import tqdm

from analysis.circuits import controls
from analysis.circuits.alignment import Preset, Scores, aligned_scores, map_input, node_scores, train_map
from analysis.circuits.batch import Batch
from analysis.circuits.maps import AlignmentMap, Layout, make_map, weight_statistics
from analysis.circuits.nodes import CircuitModel
from analysis.circuits.passes import Passes, count_passes


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
    ranker = _Ranker(source, target, tasks, preset)
    for seed in seeds:
        ranker.put_trained(seed, near, f"{name} seed {seed}")
    ranker.put_untrained()
    return ranker.rankings


class _Ranker:
    """Direct attribution on both models for every task, and what is trained on it.

    source_scores, gold: by task, of the source's nodes and of the target's. given: what maps are given, by task.
    """

    def __init__(self, source: CircuitModel, target: CircuitModel, tasks: Mapping[str, TransferTask], preset: Preset):
        self.target, self.tasks, self.preset = target, tasks, preset
        self.layouts = Layout.of(source), Layout.of(target)
        self.source_scores, source_passes, self.gold, self.gold_passes = {}, {}, {}, {}
        for task, prompts in tasks.items():
            with count_passes(source) as source_passes[task]:
                self.source_scores[task] = node_scores(source, prompts.source, preset)
            with count_passes(target) as self.gold_passes[task]:
                self.gold[task] = node_scores(target, prompts.train, preset)
        self.given = {task: map_input(scores, preset) for task, scores in self.source_scores.items()}
        takes_statistics = preset.map in ("feature-tied", "transport")
        self.statistics = [weight_statistics(source), weight_statistics(target)] if takes_statistics else None
        self.rankings = Rankings(
            {task: {} for task in tasks},
            {task: {} for task in tasks},
            {task: scores.mean for task, scores in self.source_scores.items()},
            source_passes,
        )

    def others(self, task: str) -> list[str]:
        return [one for one in self.tasks if one != task]

    def untrained(self, names: Iterable[str], seed: int) -> AlignmentMap:
        """The map that training on these tasks begins with."""
        pairs = [(self.source_scores[one], self.gold[one]) for one in names]
        features = _map_features(self.statistics, self.preset, pairs)
        return make_map(self.preset.map, *self.layouts, seed, self.preset.rank, *features)

    def built_on(self, names: Sequence[str]) -> Passes:
        """What an untrained map costs: a transport map knows the gold scores of its training tasks."""
        return sum((self.gold_passes[one] for one in names if self.preset.map == "transport"), start=Passes())

    def trained(self, names: Sequence[str], seed: int) -> tuple[AlignmentMap, Passes]:
        training = train_map(
            self.untrained(names, seed),
            self.target,
            self.source_scores,
            {one: self.tasks[one].train for one in names},
            self.preset,
            seed,
            {one: self.tasks[one].validation for one in names},
        )
        return training.map, training.passes + self.built_on(names)

    def put_trained(self, seed: int, near: Mapping[str, str], label: str) -> None:
        """The rows that are drawn from a seed: maps and gates that are trained, and what is made of them."""
        own, masks, put = {}, {}, self.rankings.put
        for task, prompts in tqdm(self.tasks.items(), desc=label, unit="task"):
            own[task] = self.trained([task], seed)
            mask, training = controls.learn_masks(self.target, prompts.train, self.preset, seed, prompts.validation)
            masks[task] = mask, training.passes
        for task in tqdm(self.tasks, desc=f"{label}, zero-shot", unit="task"):
            given, others = self.given[task], self.others(task)
            alignment, cost = own[task]
            put(task, "in_distribution", seed, aligned_scores(alignment, given), cost)
            if task in near:
                alignment, cost = own[near[task]]
                put(task, "near", seed, aligned_scores(alignment, given), cost)
            zero_shot, cost = self.trained(others, seed)
            put(task, "zero_shot", seed, aligned_scores(zero_shot, given), cost)
            start = self.untrained(others, seed)
            put(task, "random_w", seed, aligned_scores(start, given), self.built_on(others))
            put(task, "permuted_w", seed, controls.permuted_columns(zero_shot, given, seed), cost)
            mixed = controls.scrambled(given, task, seed)
            put(task, "scrambled_s", seed, aligned_scores(zero_shot, mixed), cost)
            put(task, "mask_learning", seed, *masks[task])
            mean = controls.mean_of_tasks([masks[one][0] for one in others])
            put(task, "mean_of_masks", seed, mean, sum((masks[one][1] for one in others), start=Passes()))
            put(task, "nearest_mask", seed, *masks[controls.nearest_task(task, self.given)])

    def put_untrained(self) -> None:
        """The rows that need no seed; "equal_compute" may spend what zero-shot DFA of the last seed did."""
        put = self.rankings.put
        for task, prompts in self.tasks.items():
            others, nearest = self.others(task), controls.nearest_task(task, self.given)
            put(task, "gold", None, self.gold[task].mean, self.gold_passes[task])
            put(task, "depth_mean", None, controls.depth_mean(self.given[task], *self.layouts), Passes())
            mean = controls.mean_of_tasks([self.gold[one].mean for one in others])
            put(task, "mean_of_gold", None, mean, sum((self.gold_passes[one] for one in others), start=Passes()))
            put(task, "nearest_gold", None, self.gold[nearest].mean, self.gold_passes[nearest])
            count, steps = controls.affordable(
                self.rankings.passes[task]["zero_shot"].equivalents,
                self.gold_passes[task].equivalents / len(prompts.train),
                len(prompts.train),
                self.preset.steps,
                # One more point on the path is one forward and one backward pass.
                step_cost=3 if self.preset.method == "nap-ig-inputs" else 0,
            )
            with count_passes(self.target) as passes:
                bought = node_scores(self.target, prompts.train.select(slice(0, count)), self.preset, steps)
            put(task, "equal_compute", None, bought.mean, passes)


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
    features = []
    for place, known in enumerate(statistics):
        profiles = [functional.normalize(pair[place].mean[1:].float(), dim=0) * len(known) ** 0.5 for pair in scores]
        features.append(torch.cat([known, torch.stack(profiles, dim=1)], dim=1))
    return features
