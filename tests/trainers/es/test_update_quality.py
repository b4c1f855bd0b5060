"""The trainer's steps on rewards whose gradient is known, beside the closed forms; independence of its noise; replay.

With R(theta) = -1/2 theta' Q theta and z_i = (R(theta + sigma eps_i) + xi n_i - E) / sigma_R the step
(alpha / N) sum_i z_i eps_i has, for a known mean E and deviation sigma_R of the fitness,

    sigma_R^2  = sigma^2 |Q theta|^2 + 1/2 sigma^4 tr Q^2 + xi^2
    mean       = -alpha sigma Q theta / sigma_R
    covariance = alpha^2 / (N sigma_R^2) (sigma^2 Q theta theta' Q + 2 sigma^4 Q^2 + sigma_R^2 I)

(arXiv 2604.01499, section on theory; the moments are those of products of Gaussians, by Isserlis' theorem).
"""

import itertools
import math

import numpy as np
import pytest
import torch

from eval.storage import append_jsonl
from trainers.es.noise import Noise, member_seed
from trainers.es.search import Evaluation, EvolutionStrategy, SeedProblem
from trainers.es.update import read_seed_log, replay


DIMENSION = 6
CURVATURES = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.0, 0.0], dtype=torch.float64)
THETA = torch.tensor([1.0, -0.5, 0.8, 0.0, 0.3, 0.0], dtype=torch.float64)
SIGMA, ALPHA, MEMBERS, XI = 0.3, 0.1, 8, 0.2
GRADIENT = -CURVATURES * THETA
SIGMA_R = math.sqrt(SIGMA**2 * float(GRADIENT.pow(2).sum()) + SIGMA**4 / 2 * float(CURVATURES.pow(2).sum()) + XI**2)


def first_steps(repeats: int, shaping: str) -> torch.Tensor:
    """The trainer's first step from THETA in runs of different seeds, [repeats, DIMENSION]."""
    rng = np.random.default_rng(0)
    expected = -0.5 * float(CURVATURES @ THETA**2) - SIGMA**2 / 2 * float(CURVATURES.sum())
    steps = []
    for run_seed in range(repeats):
        weights = {"a": THETA[:4].float().clone(), "b": THETA[4:].float().clone()}
        base = {name: weight.clone() for name, weight in weights.items()}

        def evaluate(step, members, weights=weights):
            deltas = [
                torch.cat([member.delta(name, weight) for name, weight in weights.items()]) for member in members
            ]
            points = THETA + torch.stack(deltas).double()
            rewards = -0.5 * (CURVATURES * points**2).sum(1).numpy() + XI * rng.standard_normal(len(members))
            return Evaluation(((rewards - expected) / SIGMA_R)[:, None], len(members), 0, 0, 0)

        EvolutionStrategy(
            SeedProblem(evaluate, Noise(), "none"),
            weights,
            base,
            run_seed=run_seed,
            members=MEMBERS,
            alpha=lambda step: ALPHA,
            sigma=lambda step: SIGMA,
            shaping=shaping,
        ).step()
        steps.append(torch.cat([weights[name] - base[name] for name in weights]).double())
    return torch.stack(steps)


@pytest.fixture(scope="module")
def steps() -> torch.Tensor:
    return first_steps(1500, "raw")


def assert_within_three_errors(samples: torch.Tensor, expected: torch.Tensor) -> None:
    """samples: [repeats, ...]; every mean within three of its standard errors, but for one, and none beyond four."""
    error = samples.std(0) / len(samples) ** 0.5
    deviations = ((samples.mean(0) - expected) / error).abs().flatten()
    # Of n normal numbers about 0.0027 n lie beyond three; beyond four, none of so few.
    assert int((deviations > 3).sum()) <= max(1, len(deviations) // 100) and float(deviations.max()) < 4, deviations


def test_mean_step_on_a_quadratic(steps):
    assert_within_three_errors(steps, ALPHA * SIGMA * GRADIENT / SIGMA_R)


def test_covariance_of_the_step_on_a_quadratic(steps):
    mean = ALPHA * SIGMA * GRADIENT / SIGMA_R
    centred = steps - mean
    covariance = (
        ALPHA**2
        / (MEMBERS * SIGMA_R**2)
        * (SIGMA**2 * torch.outer(GRADIENT, GRADIENT) + torch.diag(2 * SIGMA**4 * CURVATURES**2 + SIGMA_R**2))
    )
    upper = torch.triu_indices(DIMENSION, DIMENSION)
    products = (centred[:, :, None] * centred[:, None, :])[:, upper[0], upper[1]]
    assert_within_three_errors(products, covariance[upper[0], upper[1]])
    # The terms that the quadratic adds to a flat reward's are seen: without them it would not pass.
    flat = torch.eye(DIMENSION, dtype=torch.float64) * ALPHA**2 / MEMBERS
    with pytest.raises(AssertionError):
        assert_within_three_errors(products, flat[upper[0], upper[1]])


def test_squared_length_of_zscored_steps():
    """Sum z^2 = N exactly, so that in directions that the fitness does not know of the variance is alpha^2 / N."""
    found = first_steps(800, "zscore")
    blind = CURVATURES == 0
    assert_within_three_errors(found[:, blind].pow(2), torch.full((2,), ALPHA**2 / MEMBERS, dtype=torch.float64))


def test_norm_growth_on_a_flat_reward():
    """|theta_T - theta_0|^2 = alpha^2 T d / N in the mean, with a relative deviation of sqrt(2 / d) at most."""
    alpha, members, dimension, horizon, repeats = 0.02, 6, 400, 25, 30
    rng = np.random.default_rng(1)
    squared = torch.zeros(repeats, horizon, dtype=torch.float64)
    for run_seed in range(repeats):
        weights = {"a": torch.zeros(dimension // 2), "b": torch.zeros(10, dimension // 20)}
        base = {name: weight.clone() for name, weight in weights.items()}
        search = EvolutionStrategy(
            SeedProblem(
                lambda step, members: Evaluation(rng.random((len(members), 1)), len(members), 0, 0, 0), Noise(), "none"
            ),
            weights,
            base,
            run_seed=run_seed,
            members=members,
            alpha=lambda step: alpha,
            sigma=lambda step: 0.1,
            shaping="zscore",
        )
        for step in range(horizon):
            search.step()
            squared[run_seed, step] = sum(float(weight.double().pow(2).sum()) for weight in weights.values())
    expected = alpha**2 * torch.arange(1, horizon + 1) * dimension / members
    error = squared.std(0) / repeats**0.5
    # Neighbouring steps are correlated: the last and three others stand for all.
    for step in (0, 5, 12, horizon - 1):
        assert abs(float(squared[:, step].mean() - expected[step])) < 3 * float(error[step]), step


def test_noise_of_same_shaped_tensors_and_of_members_is_independent():
    """Correlations of all pairs of 24 tensors (4 members, 6 layers) together: their squares times n sum to chi^2."""
    size = 5000
    draws = [
        Noise().draw(member_seed(0, 3, member), f"layers.{layer}.mlp.up_proj.weight", torch.empty(50, size // 50))
        for member in range(4)
        for layer in range(6)
    ]
    stacked = torch.stack([draw.flatten().double() for draw in draws])
    standard = (stacked - stacked.mean(1, keepdim=True)) / stacked.std(1, correction=0, keepdim=True)
    correlations = standard @ standard.T / size
    pairs = torch.triu_indices(24, 24, offset=1)
    statistic, freedom = float(size * correlations[pairs[0], pairs[1]].pow(2).sum()), pairs.shape[1]
    # chi^2 with k degrees of freedom has mean k and variance 2 k.
    assert abs(statistic - freedom) < 3 * math.sqrt(2 * freedom)
    # Not only uncorrelated: neither are squares, signs of neighbours, or the values one place on.
    for transform in (torch.square, torch.sign, lambda x: x.roll(1)):
        other = transform(standard)
        other = (other - other.mean(1, keepdim=True)) / other.std(1, correction=0, keepdim=True)
        crossed = [float((standard[a] * other[b]).mean()) for a, b in itertools.permutations(range(24), 2)]
        statistic = size * sum(value**2 for value in crossed)
        # The pairs share tensors, which widens the spread a little: four deviations.
        assert abs(statistic - len(crossed)) < 4 * math.sqrt(2 * 2 * len(crossed))


def test_the_same_statistic_finds_shared_noise():
    draws = [Noise(shared=True).draw(7, f"layer.{layer}", torch.empty(50, 100)).flatten() for layer in range(6)]
    correlations = torch.corrcoef(torch.stack(draws))
    assert torch.allclose(correlations, torch.ones(6, 6))


@pytest.mark.parametrize("shared", [False, True])
def test_a_hundred_steps_replay_to_the_bit(tmp_path, shared):
    generator = torch.Generator().manual_seed(0)
    base = {"layer.weight": torch.randn(40, 30, generator=generator), "norm.weight": torch.ones(30)}
    weights = {name: weight.clone() for name, weight in base.items()}
    rng = np.random.default_rng(3)

    def evaluate(step, members):
        return Evaluation(rng.random((len(members), 5)), 1, 0, 0, 0)

    search = EvolutionStrategy(
        SeedProblem(evaluate, Noise(shared), "mean"),
        weights,
        base,
        run_seed=11,
        members=6,
        alpha=lambda step: 1e-3 / (1 + step),
        sigma=lambda step: 1e-3,
        shaping="zscore",
        antithetic=True,
        anchor=2.0,
    )
    halfway = None
    for step in range(100):
        search.step()
        append_jsonl(tmp_path / "seeds.jsonl", search.log_row())
        if step == 49:
            halfway = {name: weight.clone() for name, weight in weights.items()}
    log = read_seed_log(tmp_path / "seeds.jsonl")
    assert len(log) == 100
    for expected, found in ((weights, replay(base, log)), (halfway, replay(base, log[:50]))):
        assert all(torch.equal(expected[name], found[name]) for name in base)
