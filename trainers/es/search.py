"""Evolution strategies in evotorch's terms: the solutions of the problem are seeds, not weight vectors.

A population of dense perturbations would be `members` times the size of the model. Here a solution is two integers, a
member's seed and sign; the rollout engine makes the weights of a member when it evaluates it, and the update is summed
from the same seeds. evotorch's hooks and loggers work as with any of its algorithms; `metrics`, given to
`after_step_hook`, puts what a run logs into the status that loggers see.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from evotorch import Problem, SolutionBatch
from evotorch.algorithms import SearchAlgorithm

from eval.rollout.base import Member
from trainers.es.bfloat16 import InPlaceMember
from trainers.es.member import seeded_member
from trainers.es.noise import Noise, member_seed
from trainers.es.shaping import member_fitness, shape
from trainers.es.update import Update, Weights, apply_update


@dataclass(frozen=True)
class Evaluation:
    """What the members of one step achieved.

    rewards: [members, prompts], NaN where a completion could not be scored. The counts are totals over the population.
    longest: tokens of the longest completion. parts: the mean of each reward function, where there are such. gap: see
    `eval.log_prob_gap`, where it was measured.
    """

    rewards: np.ndarray
    completions: int
    tokens: int
    empty: int
    unfinished: int
    longest: int = 0
    parts: dict[str, float] = field(default_factory=dict)
    gap: dict[str, float] = field(default_factory=dict)
    examples: Sequence[tuple[str, float | None]] = ()  # some completions with their rewards


CPU = torch.device("cpu")
# Of a step (0-based) and all of its members.
EvaluateMembers = Callable[[int, Sequence[Member]], Evaluation]


class SeedProblem(Problem):
    """Maximise the mean reward of a member. A solution is (seed, sign), int64.

    evaluate: gives the rewards of a list of members at a step. Called once per step with the whole population.
    precision: one of `trainers.es.bfloat16.PRECISIONS`. engines: in "released", how many engines the members go to in
        turn; each has the rounding errors of the members before, and the update is made on the first.
    """

    evaluation: Evaluation  # of the last step's members

    def __init__(
        self, evaluate: EvaluateMembers, noise: Noise, baseline: str, precision: str = "fp32_master", engines: int = 1
    ):
        super().__init__("max", solution_length=2, dtype=torch.int64, eval_dtype=torch.float64)
        self.precision, self.engines = precision, engines
        self.evaluate_members, self.noise, self.baseline = evaluate, noise, baseline
        self.step, self.sigma = 0, 0.0
        self.fitness = np.zeros(0)  # [members] of the last evaluation, NaN without a scored completion

    def population(self, run_seed: int, step: int, members: int, antithetic: bool) -> SolutionBatch:
        """The members of `step`; with `antithetic`, members 2k and 2k+1 share a seed and differ in sign."""
        batch = SolutionBatch(self, members, empty=True)
        rows = []
        for member in range(members):
            source = member // 2 if antithetic else member
            rows.append((member_seed(run_seed, step, source), -1 if antithetic and member % 2 else 1))
        batch.set_values(torch.tensor(rows))
        return batch

    def rows(self, batch: SolutionBatch) -> list[list[int]]:
        """[seed, sign] of each member."""
        return torch.as_tensor(batch.values).tolist()

    def members(self, batch: SolutionBatch) -> Sequence[Member]:
        rows = self.rows(batch)
        if self.precision in ("released", "exact_restore"):
            return [
                InPlaceMember(index, seed, sign, self.sigma, self.noise, self.walked(rows, index))
                for index, (seed, sign) in enumerate(rows)
            ]
        return [seeded_member(index, seed, sign, self.sigma, self.noise) for index, (seed, sign) in enumerate(rows)]

    def walked(self, rows: list[list[int]], before: int) -> list[list[int]]:
        """(seed, sign) of those of the first `before` members that share the engine of member `before`."""
        return rows[before % self.engines : before : self.engines] if self.precision == "released" else []

    def _evaluate_batch(self, batch: SolutionBatch) -> None:
        self.evaluation = self.evaluate_members(self.step, self.members(batch))
        self.fitness = member_fitness(self.evaluation.rewards, self.baseline)
        scored = self.fitness[~np.isnan(self.fitness)]
        # evotorch's own statistics cannot take NaN: to them a member without a fitness is as bad as the worst.
        worst = scored.min() if len(scored) else 0.0
        batch.set_evals(torch.from_numpy(np.where(np.isnan(self.fitness), worst, self.fitness)))


class EvolutionStrategy(SearchAlgorithm):
    """theta <- theta + (alpha / N) sum_i z_i sign_i epsilon_i (arXiv 2509.24372, 2604.01499), one step per `step()`.

    weights: the float32 master, by parameter name; changed in place. base: where the search started, for the anchor.
    alpha, sigma: functions of the step (0-based). anchor: weight lambda of the anchored decay
        theta <- base + (1 - alpha lambda)(theta - base) (arXiv 2605.30148).
    steps_done: steps that a resumed run has behind it. device: where noise is drawn, that of the engine; the weights
        may lie elsewhere and are then moved there and back, one tensor at a time.
    """

    log = "seeds.jsonl"
    update: Update  # the last step's

    def __init__(
        self,
        problem: SeedProblem,
        weights: Weights,
        base: Weights,
        *,
        run_seed: int,
        members: int,
        alpha: Callable[[int], float],
        sigma: Callable[[int], float],
        shaping: str,
        antithetic: bool = False,
        anchor: float = 0.0,
        steps_done: int = 0,
        device: torch.device = CPU,
    ):
        super().__init__(problem)
        self.seeds = problem  # evotorch's own `problem` has the type of any
        self.weights, self.base = weights, base
        self.run_seed, self.member_count, self.antithetic = run_seed, members, antithetic
        self.alpha, self.sigma, self.shaping, self.anchor = alpha, sigma, shaping, anchor
        self.device = device
        self.update_norm = 0.0
        self._steps_count = steps_done

    @property
    def evaluation(self) -> Evaluation:
        """Of the last step's members."""
        return self.seeds.evaluation

    def _step(self) -> None:
        step, problem = self.steps_count, self.seeds
        problem.step, problem.sigma = step, self.sigma(step)
        population = problem.population(self.run_seed, step, self.member_count, self.antithetic)
        problem.evaluate(population)

        alpha = self.alpha(step)
        z = shape(problem.fitness, self.shaping)
        rows = problem.rows(population)
        # All members of the first engine: as many as come before the next that would go to it.
        walked = problem.walked(rows, -(-self.member_count // problem.engines) * problem.engines)
        self.update = Update(
            step=step + 1,
            seeds=[seed for seed, _ in rows],
            coefficients=[
                alpha / self.member_count * weight * sign for weight, (_, sign) in zip(z, rows, strict=True)
            ],
            decay=alpha * self.anchor,
            shared_noise=problem.noise.shared,
            device=self.device.type,
            rank=problem.noise.rank,
            rest=problem.noise.rest,
            precision=problem.precision,
            sigma=problem.sigma,
            walked=walked,
        )
        self.update_norm = self._apply()

    def apply_logged(self, update: Update) -> None:
        """Take a step of the seed log in place of one with members."""
        self.update = update
        self.update_norm = self._apply()
        self._steps_count = update.step

    def seeds_of(self, step: int) -> list[int]:
        """The seed of each member of `step` (0-based)."""
        population = self.seeds.population(self.run_seed, step, self.member_count, self.antithetic)
        return [seed for seed, _ in self.seeds.rows(population)]

    def distance_from_base(self) -> float:
        return distance(self.weights, self.base)

    def _apply(self) -> float:
        squared_norm = 0.0
        for name, weight in self.weights.items():
            if weight is self.base[name]:
                continue  # frozen
            here = {name: weight.to(self.device)}
            squared_norm += apply_update(here, {name: self.base[name].to(self.device)}, self.update) ** 2
            if here[name] is not weight:
                weight.copy_(here[name])
        return math.sqrt(squared_norm)

    @property
    def pristine(self) -> Weights:
        """The weights that members are overlays on."""
        return self.weights

    def finish(self) -> None:
        """Nothing is left to do after the last step."""

    def log_row(self) -> dict[str, Any]:
        """What, with the weights before the step, decides those after it."""
        return self.update.row()

    def metrics(self) -> dict[str, Any]:
        """Of the last step, as in metrics.jsonl; None where no member has a fitness."""
        fitness, rewards = self.seeds.fitness, self.evaluation.rewards
        scored = int((~np.isnan(fitness)).sum())
        return {
            "reward": None if np.isnan(rewards).all() else float(np.nanmean(rewards)),
            "reward_std": float(np.nanstd(fitness)) if scored else None,
            "reward_best": float(np.nanmax(fitness)) if scored else None,
            "members_tied": not any(self.update.coefficients),
            "members_unscored": self.member_count - scored,
            "alpha": self.alpha(self.steps_count - 1),
            "sigma": self.seeds.sigma,
            "update_norm": self.update_norm,
            "distance_from_base": self.distance_from_base(),
        }


def distance(weights: Weights, others: Weights) -> float:
    """Euclidean distance, summed in float64 without copies of the tensors in it."""
    moved = [name for name in weights if weights[name] is not others[name]]
    norms = (torch.linalg.vector_norm(weights[name] - others[name], dtype=torch.float64) for name in moved)
    return math.sqrt(sum(float(norm) ** 2 for norm in norms))
