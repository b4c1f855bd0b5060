"""evotorch's own algorithms on vectors that stand for changes of the matrices (see `trainers.es.subspace`).

What is added to them is what 0/1 rewards need: tied members share their ranks, where evotorch ranks them in the order
in which they stand, and a step in which all are tied changes nothing, where ClipUp would divide by zero.

PGPE, SNES, XNES and CEM move their centre with the next step, before they sample: after T steps the centre has seen
T - 1 populations. `finish` lets it see the last one.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from evotorch import Problem, SolutionBatch
from evotorch.algorithms import CEM, CMAES, PGPE, SNES, XNES, SearchAlgorithm
from evotorch.distributions import Distribution, ExpGaussian, ExpSeparableGaussian
from evotorch.optimizers import SGD, Adam, ClipUp
from evotorch.tools import RealOrVector
from evotorch.tools.ranking import rank

from eval.errors import UserError
from trainers.ending import diverged
from trainers.es.search import EvaluateMembers, Evaluation, distance
from trainers.es.shaping import member_fitness, shape
from trainers.es.subspace import Subspace, VectorMember
from trainers.es.update import Weights


ALGORITHMS = ("pgpe", "snes", "xnes", "cem", "cmaes")
OPTIMIZERS = ("none", "adam", "clipup", "sgd")
# These take an optimiser for their centre.
WITH_OPTIMIZER = ("pgpe", "snes")
# These keep a full covariance: longer vectors would take hours and gigabytes a step.
LONGEST_WITH_COVARIANCE = 2000


class VectorProblem(Problem):
    """Maximise the mean reward of a member; a solution is a vector, float32.

    recorded: fitnesses [members] of the steps that are already done: they are taken for granted, so that an algorithm
        comes back to where an interrupted run was, bit for bit, without any state but its seed.
    shaping: one of `trainers.es.shaping.SHAPINGS`, applied before the algorithm sees the fitness.
    """

    evaluation: Evaluation  # of the last step's members

    def __init__(
        self,
        evaluate: EvaluateMembers,
        space: Subspace,
        baseline: str,
        shaping: str,
        seed: int,
        recorded: list[list[float]],
    ):
        # evotorch takes seeds below 2^63; its own bounds are only used for a start of its own choice.
        super().__init__("max", solution_length=space.length, dtype=torch.float32, seed=seed)
        self.evaluate_members, self.space, self.baseline, self.shaping = evaluate, space, baseline, shaping
        self.recorded = recorded
        self.step = 0
        self.finished = False
        self.fitness = np.zeros(0)

    def _fill(self, values: Iterable) -> torch.Tensor:
        """For CMA-ES, which makes a population before it samples one."""
        return torch.as_tensor(values).zero_()

    def _evaluate_batch(self, batch: SolutionBatch) -> None:
        if self.finished:
            batch.set_evals(torch.zeros(len(batch)))
            return
        if self.step < len(self.recorded):
            self.fitness = np.array(self.recorded[self.step])
        else:
            vectors = torch.as_tensor(batch.values).clone()
            members = [VectorMember(index, vector, self.space) for index, vector in enumerate(vectors)]
            self.evaluation = self.evaluate_members(self.step, members)
            fitness = member_fitness(self.evaluation.rewards, self.baseline)
            # A member of which nothing is known counts as average.
            self.fitness = np.nan_to_num(fitness, nan=0.0 if np.isnan(fitness).all() else float(np.nanmean(fitness)))
        self.step += 1
        shaped = self.fitness if self.shaping == "raw" else shape(self.fitness, self.shaping)
        batch.set_evals(torch.from_numpy(shaped).float())


class VectorSearch:
    """One of evotorch's algorithms from a model's weights, with the same face as `EvolutionStrategy`.

    weights: the float32 weights at the centre. pristine: those that members are overlays on, the starting weights.
    """

    log = "fitness.jsonl"

    def __init__(self, problem: VectorProblem, base: Weights, algorithm: SearchAlgorithm):
        self.problem, self.base, self.algorithm = problem, base, algorithm
        self.weights = {name: weight.clone() for name, weight in base.items()}
        self.update_norm = 0.0
        for _ in problem.recorded:
            algorithm.step()
        self._follow_centre()

    @property
    def evaluation(self) -> Evaluation:
        """Of the last step's members."""
        return self.problem.evaluation

    @property
    def pristine(self) -> Weights:
        return self.base

    @property
    def steps_count(self) -> int:
        return self.problem.step

    def step(self) -> None:
        self.algorithm.step()
        self._follow_centre()

    def finish(self) -> None:
        """Let the centre see the last population; to be called once, after the last step."""
        if not isinstance(self.algorithm, CMAES):
            self.problem.finished = True
            self.algorithm.step()
            self._follow_centre()

    def log_row(self) -> dict[str, Any]:
        """What, with the options of the run, decides the next step."""
        return {"step": self.problem.step, "fitness": self.problem.fitness.tolist()}

    def metrics(self) -> dict[str, Any]:
        evaluation, fitness = self.evaluation, self.problem.fitness
        unscored = int(np.isnan(evaluation.rewards).all(axis=1).sum())
        deviations = self._deviations()
        return {
            "reward": None if unscored == len(fitness) else float(np.nanmean(evaluation.rewards)),
            "reward_std": float(fitness.std()),
            "reward_best": float(fitness.max()),
            "members_tied": bool(np.ptp(fitness) < 1e-12),
            "members_unscored": unscored,
            "sigma": float((deviations.diagonal() if deviations.ndim == 2 else deviations).mean()),
            "update_norm": self.update_norm,
            "distance_from_base": distance(self.weights, self.base),
        }

    def _deviations(self) -> torch.Tensor:
        """Of the search distribution; of XNES a root of the covariance matrix."""
        key = "stepsize" if isinstance(self.algorithm, CMAES) else "stdev"
        return torch.as_tensor(self.algorithm.status[key])

    def _follow_centre(self) -> None:
        done = self.algorithm.steps_count
        if done and not torch.isfinite(self._deviations()).all():
            raise diverged(
                f"the standard deviation of the search after step {done} is NaN or infinite",
                "lower stdev_learning_rate or sigma",
            )
        centre = torch.as_tensor(self.algorithm.status["center"]) if done else self.problem.space.start
        squared = 0.0
        for name, weight in self.weights.items():
            moved = self.base[name] + self.problem.space.delta(name, weight, centre)
            squared += float((moved - weight).double().pow(2).sum())
            weight.copy_(moved)
        self.update_norm = math.sqrt(squared)


def make_algorithm(
    name: str,
    problem: VectorProblem,
    *,
    members: int,
    stdev: float,
    optimizer: str = "none",
    center_learning_rate: float | None = None,
    stdev_learning_rate: float | None = None,
    parenthood_ratio: float = 0.5,
) -> SearchAlgorithm:
    """The algorithm of this name (`ALGORITHMS`) from the space's start.

    stdev: initial standard deviation of every number of the vector. optimizer: of `OPTIMIZERS`; what turns PGPE's or
    SNES's gradient of the centre into its step, at center_learning_rate. None as a learning rate is evotorch's own
    default where it has one, and 0.1 for PGPE's standard deviations. parenthood_ratio: share of elites, CEM only.
    """
    common: dict[str, Any] = {"popsize": members, "center_init": problem.space.start, "stdev_init": stdev}
    if name == "cmaes":
        return _SharedTiesCMAES(problem, **common)
    if name == "cem":
        return CEM(problem, parenthood_ratio=parenthood_ratio, **common)
    rates: dict[str, Any] = {"center_learning_rate": center_learning_rate, "stdev_learning_rate": stdev_learning_rate}
    if name == "xnes":
        return _SharedTiesXNES(problem, **common, **rates)
    common["optimizer"] = None  # PGPE's own default is ClipUp
    if optimizer != "none":
        own = {"solution_length": problem.solution_length, "dtype": problem.dtype, "stepsize": center_learning_rate}
        common["optimizer"] = {"adam": Adam, "clipup": _ClipUp, "sgd": SGD}[optimizer](**own)
    if name == "snes":
        return _SharedTiesSNES(problem, **common, **rates)
    rates["stdev_learning_rate"] = 0.1 if stdev_learning_rate is None else stdev_learning_rate
    # "raw": the problem shapes the fitness before.
    return PGPE(problem, **common, **rates, ranking_method="raw")


def check_length(algorithm: str, space: Subspace) -> None:
    """Raise `UserError` if the vector is too long for an algorithm that keeps all its covariances."""
    if algorithm in ("xnes", "cmaes") and space.length > LONGEST_WITH_COVARIANCE:
        raise UserError(
            f"{algorithm} keeps the covariance of all {space.length:,} numbers of a vector, more than "
            f"{LONGEST_WITH_COVARIANCE:,}; lower space_rank, take space singular, or algorithm snes or "
            "pgpe"
        )


def share_ties(weights: torch.Tensor, fitnesses: torch.Tensor) -> torch.Tensor:
    """Weights that belong to ranks, averaged over members of equal fitness. Both [members]."""
    equal = (fitnesses[None] == fitnesses[:, None]).to(weights.dtype)
    return equal @ weights / equal.sum(1)


class _SharedTies(Distribution):
    """A search distribution in whose gradients tied members have the same weight."""

    def compute_gradients(self, samples, fitnesses: Any, *, objective_sense, ranking_method=None) -> dict:
        weights = rank(fitnesses, ranking_method or "raw", higher_is_better=objective_sense == "max")
        return self._compute_gradients(samples, share_ties(weights, fitnesses), ranking_method)


class _SeparableSharedTies(_SharedTies, ExpSeparableGaussian):
    pass


class _FullSharedTies(_SharedTies, ExpGaussian):
    pass


class _SharedTiesSNES(SNES):
    DISTRIBUTION_TYPE = _SeparableSharedTies


class _SharedTiesXNES(XNES):
    DISTRIBUTION_TYPE = _FullSharedTies


class _SharedTiesCMAES(CMAES):
    def get_population_weights(self, xs: torch.Tensor) -> torch.Tensor:
        return share_ties(super().get_population_weights(xs), self._population.evals[:, self.obj_index])


class _ClipUp(ClipUp):
    """ClipUp that rolls on with its momentum where the gradient is zero, instead of dividing by its length."""

    @torch.no_grad()
    def ascent(self, globalg: RealOrVector, *, cloned_result: bool = True) -> torch.Tensor:
        if torch.any(torch.as_tensor(globalg) != 0):
            return super().ascent(globalg, cloned_result=cloned_result)
        self._velocity = self._momentum * torch.as_tensor(self._velocity)
        return self._velocity.clone()
