"""The search loop as an evotorch algorithm, on rewards that are computed from the weights."""

import math

import numpy as np
import pytest
import torch
from evotorch.logging import PandasLogger

from trainers.es.noise import Noise
from trainers.es.search import Evaluation, EvolutionStrategy, SeedProblem


TARGET = torch.linspace(-1, 1, 12)


def evaluation(rewards):
    return Evaluation(np.asarray(rewards, dtype=float), completions=len(rewards), tokens=0, empty=0, unfinished=0)


def make_search(evaluate, weights, **options):
    base = {name: weight.clone() for name, weight in weights.items()}
    options = {
        "run_seed": 0,
        "members": 20,
        "shaping": "zscore",
        "alpha": lambda step: 0.05,
        "sigma": lambda step: 0.05,
    } | options
    problem = SeedProblem(lambda step, members: evaluate(weights, members), Noise(), "none")
    return EvolutionStrategy(problem, weights, base, **options)


def distance_reward(weights, members):
    """Minus the squared distance of each member from the target; one prompt."""
    points = [weights["w"] + member.delta("w", weights["w"]) for member in members]
    return evaluation([[-float((point - TARGET).pow(2).sum())] for point in points])


@pytest.mark.parametrize("shaping", ["zscore", "centered_rank"])
@pytest.mark.parametrize("antithetic", [False, True])
def test_it_finds_the_maximum(shaping, antithetic):
    weights = {"w": torch.zeros(12)}
    alpha = {"zscore": 0.05, "centered_rank": 0.15}[shaping]
    search = make_search(distance_reward, weights, shaping=shaping, antithetic=antithetic, alpha=lambda step: alpha)
    search.run(100)
    assert float((weights["w"] - TARGET).norm()) < 0.25 < float(TARGET.norm())


def test_evotorch_loggers_and_status_work():
    search = make_search(distance_reward, {"w": torch.zeros(12)})
    search.after_step_hook.append(search.metrics)
    logger = PandasLogger(search)
    search.run(3)
    frame = logger.to_dataframe()
    assert list(frame.index) == [1, 2, 3]
    assert frame["reward"].iloc[-1] == search.status["reward"]
    assert search.status["alpha"] == 0.05 and search.status["members_unscored"] == 0


def test_the_schedule_sees_the_step():
    search = make_search(
        distance_reward,
        {"w": torch.zeros(12)},
        alpha=lambda step: 0.1 / (step + 1),
        sigma=lambda step: 0.2 / (step + 1),
    )
    search.run(4)
    assert search.metrics()["alpha"] == pytest.approx(0.025) and search.metrics()["sigma"] == pytest.approx(0.05)


def test_antithetic_members_are_mirror_images():
    seen = []
    make_search(
        lambda weights, members: seen.append(members) or distance_reward(weights, members),
        {"w": torch.zeros(12)},
        antithetic=True,
    ).run(2)
    weight = torch.zeros(12)
    for members in seen:
        deltas = [member.delta("w", weight) for member in members]
        assert all(torch.equal(deltas[i], -deltas[i + 1]) for i in range(0, 20, 2))
    assert len({member.seed for members in seen for member in members}) == 20


def test_members_differ_between_steps_and_runs():
    seen = []
    for run_seed in (0, 1):
        make_search(
            lambda weights, members: seen.append(members) or distance_reward(weights, members),
            {"w": torch.zeros(12)},
            run_seed=run_seed,
        ).run(2)
    assert len({member.seed for members in seen for member in members}) == 80


def test_all_members_tied_leaves_the_weights():
    weights = {"w": torch.randn(12)}
    before = weights["w"].clone()
    search = make_search(lambda _, members: evaluation([[1.0]] * len(members)), weights)
    search.run(1)
    assert torch.equal(weights["w"], before)
    assert search.metrics()["members_tied"] and search.metrics()["update_norm"] == 0.0


def test_a_member_without_a_score_takes_no_part():
    weights = {"w": torch.zeros(12)}

    def evaluate(weights, members):
        rewarded = distance_reward(weights, members)
        rewarded.rewards[3] = math.nan
        return rewarded

    search = make_search(evaluate, weights)
    search.run(1)
    assert search.metrics()["members_unscored"] == 1
    assert search.update.coefficients[3] == 0.0 and all(search.update.coefficients[:3])
    assert math.isfinite(search.metrics()["reward"]) and bool(weights["w"].isfinite().all())


def test_no_scores_at_all_leaves_the_weights():
    weights = {"w": torch.zeros(12)}
    search = make_search(lambda _, members: evaluation([[math.nan]] * len(members)), weights)
    search.run(1)
    assert search.metrics()["reward"] is None and not weights["w"].any()


def test_anchor_pulls_back():
    free, anchored = {"w": torch.zeros(12)}, {"w": torch.zeros(12)}
    make_search(distance_reward, free).run(30)
    make_search(distance_reward, anchored, anchor=5.0).run(30)
    assert anchored["w"].norm() < 0.8 * free["w"].norm()
