"""Where a search starts, or goes on: the starting weights, and the search brought to the step of a checkpoint."""

from collections.abc import Mapping
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from eval.rollout.base import RolloutEngine
from eval.rollout.loading import load_model
from trainers.es.config import DTYPES, ESConfig
from trainers.es.rollout import MemberRollout
from trainers.es.search import EvolutionStrategy, SeedProblem
from trainers.es.subspace import Subspace
from trainers.es.update import Weights
from trainers.es.vector_search import VectorProblem, VectorSearch, check_length, make_algorithm


def starting_weights(
    config: ESConfig, weights: Mapping[str, torch.Tensor], accelerator: Accelerator, only: frozenset[str] | None = None
) -> Weights:
    """The weights that the run starts from, float32 by parameter name, where the master is kept.

    only: names of the parameters that are searched; None for all of them.
    """
    keep_on = "cpu" if config.master_on_cpu else accelerator.device
    start = {
        name: weight.detach().to(keep_on, torch.float32, copy=True)
        for name, weight in weights.items()
        if only is None or name in only
    }
    if config.precision != "fp32_master":
        start = {name: weight.to(torch.bfloat16).float() for name, weight in start.items()}
    return start


def stored_weights(config: ESConfig, engine: RolloutEngine) -> Mapping[str, torch.Tensor]:
    """The weights of the model as its checkpoint has them: an engine of another type holds them rounded to it."""
    if DTYPES[config.engine_dtype] == torch.float32:
        return engine.named_weights()
    model, _ = load_model(config.model, torch.float32)
    return dict(model.named_parameters())


def evolution_strategy(
    config: ESConfig,
    rollout: MemberRollout,
    base: Weights,
    accelerator: Accelerator,
    done: int,
    saved: Mapping[str, torch.Tensor],
    only: frozenset[str] | None = None,
) -> EvolutionStrategy:
    """The search over all weights, or those in `only`.

    done: steps that the run has behind it. saved: the weights after them, needed on the main process alone.
    """
    noise = config.make_noise(only)
    # What has no noise stays what it was: one tensor is enough for both.
    weights = {
        name: weight if noise.kind(name, weight) == "frozen" else weight.clone() for name, weight in base.items()
    }
    if done:
        for name, weight in weights.items():
            # The others get them over the network: their machines may lack the run folder.
            here = (saved[name] if saved else weight).to(accelerator.device, copy=True)
            weight.copy_(cast(torch.Tensor, broadcast(here)))
    return EvolutionStrategy(
        SeedProblem(rollout, noise, config.prompt_baseline, config.precision, config.released_engines),
        weights,
        base,
        run_seed=config.seed,
        members=config.population,
        shaping=config.fitness_shaping,
        alpha=config.alpha_at,
        sigma=config.sigma_at,
        antithetic=config.antithetic,
        anchor=config.anchor,
        steps_done=done,
        device=accelerator.device,
    )


def vector_search(
    config: ESConfig,
    rollout: MemberRollout,
    base: Weights,
    recorded: list[list[float]],
) -> VectorSearch:
    """One of evotorch's algorithms on a subspace, brought to where it was by the fitnesses of the steps so far."""
    space = Subspace(base, config.space, config.space_rank, config.seed)
    check_length(config.algorithm, space)
    problem = VectorProblem(rollout, space, config.prompt_baseline, config.fitness_shaping, config.seed, recorded)
    algorithm = make_algorithm(
        config.algorithm,
        problem,
        members=config.population,
        stdev=config.sigma,
        optimizer=config.optimizer,
        center_learning_rate=config.center_learning_rate,
        stdev_learning_rate=config.stdev_learning_rate,
        parenthood_ratio=config.parenthood_ratio,
    )
    return VectorSearch(problem, base, algorithm)
