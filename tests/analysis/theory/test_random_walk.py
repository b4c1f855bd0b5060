import math

import pytest
import torch

from analysis.theory.random_walk import (
    decayed_walk_norm,
    effective_dimension,
    expected_step,
    members_for_half_useful,
    mode_contraction,
    mode_second_moment,
    random_walk_norm,
    signal_share,
    stationary_fitness_std,
    useful_share,
    zscore_shrinkage,
)
from trainers.es.noise import Noise, member_seed
from trainers.es.shaping import shape
from trainers.es.update import Update, apply_update


@pytest.mark.parametrize("steps, expected", [(100, 86.85), (200, 122.82), (300, 150.42), (400, 173.69)])
def test_the_published_norms(steps, expected):
    norm = random_walk_norm(alpha=7.5e-4, steps=steps, members=30, parameters=4_022_468_096)
    assert norm == pytest.approx(expected, abs=0.005)


def test_a_simulated_walk_on_a_flat_reward():
    alpha, steps, members, parameters = 0.05, 20, 8, 20_000
    generator = torch.Generator().manual_seed(0)
    theta = torch.zeros(parameters, dtype=torch.float64)
    for _ in range(steps):
        fitness = torch.randn(members, dtype=torch.float64, generator=generator)
        z = (fitness - fitness.mean()) / fitness.std(correction=0)
        noise = torch.randn(members, parameters, dtype=torch.float64, generator=generator)
        theta += alpha / members * z @ noise
    # The relative spread of the norm is about 1 / sqrt(2 d) = 0.5 %.
    assert theta.norm().item() == pytest.approx(random_walk_norm(alpha, steps, members, parameters), rel=0.02)


def test_no_effective_steps_no_movement():
    assert random_walk_norm(0.01, 0, 32, 1000) == 0
    assert random_walk_norm(0.01, 4, 1, 1) == pytest.approx(0.02)
    assert math.isclose(random_walk_norm(0.01, 9, 4, 100), 0.15)


def es_step(theta, base, reward, alpha, members, sigma, generator, step, fitness_std=None, decay=0.0, shared=False):
    """One update of the trainers' own code; `fitness_std` replaces the z-score by known mean and deviation.

    reward: [N, d] -> [N], for all members at once; None is a flat reward, whose fitness is noise.
    """
    seeds = [member_seed(generator.initial_seed(), step, member) for member in range(members)]
    noise = Noise(shared)
    if reward is None:
        fitness = torch.randn(members, generator=generator, dtype=torch.float64)
    else:
        flat = torch.cat([w.flatten() for w in theta.values()]).double()
        perturbed = [torch.cat([noise.draw(s, n, w).flatten() for n, w in theta.items()]) for s in seeds]
        fitness = reward(flat + sigma * torch.stack(perturbed).double())
    z = fitness / fitness_std if fitness_std else shape(fitness.numpy(), "zscore")
    update = Update(step, seeds, [alpha / members * float(value) for value in z], decay, shared, "cpu")
    apply_update(theta, base, update)


def within_three_errors(samples, expected):
    """Mean of independent samples against theory; the standard error must also be small enough to mean something."""
    samples = torch.as_tensor(samples, dtype=torch.float64)
    error = (samples.std() / math.sqrt(len(samples))).item()
    assert error < 0.03 * expected, f"standard error {error} is too large beside {expected}"
    assert abs(samples.mean().item() - expected) < 3 * error, (samples.mean().item(), expected, error)


LINEAR = {"alpha": 0.01, "members": 20, "sigma": 0.05}
GRADIENT = torch.zeros(120, dtype=torch.float64).index_fill(0, torch.tensor([3]), 2.0)  # |v| = 2


def linear_steps(sample_zscore, repeats=1500):
    """[repeats, 120] steps of ES on v . theta + xi n, whose signal share s is one half."""
    generator = torch.Generator().manual_seed(5)
    fitness_noise = LINEAR["sigma"] * 2.0
    steps = []
    for step in range(repeats):
        theta, base = {"w": torch.zeros(12, 10)}, {"w": torch.zeros(12, 10)}

        def reward(points):
            noise = torch.randn(len(points), generator=generator, dtype=torch.float64)
            return points @ GRADIENT + fitness_noise * noise

        known = None if sample_zscore else math.hypot(LINEAR["sigma"] * 2.0, fitness_noise)
        es_step(theta, base, reward, **LINEAR, generator=generator, step=step, fitness_std=known)
        steps.append(theta["w"].flatten().double())
    return torch.stack(steps)


@pytest.mark.parametrize("sample_zscore", [False, True])
def test_useful_share_and_mean_step_on_a_linear_reward(sample_zscore):
    steps = linear_steps(sample_zscore)
    along, squares = steps[:, 3], steps.square().sum(1)
    signal = signal_share(LINEAR["sigma"], 2.0, LINEAR["sigma"] * 2.0)
    assert signal == 0.5
    share = useful_share(LINEAR["members"], 120, signal, sample_zscore)
    # A ratio of two means: its error follows from the spread of along^2 - share * total, whose mean should be 0.
    within_three_errors(along.square() / squares.mean() + (1 - squares / squares.mean()) * share, share)
    other = useful_share(LINEAR["members"], 120, signal, not sample_zscore)
    assert abs(along.square().mean() / squares.mean() - share) < abs(along.square().mean() / squares.mean() - other)

    step = expected_step(LINEAR["alpha"], LINEAR["sigma"], 2.0, LINEAR["sigma"] * math.sqrt(8))
    within_three_errors(along, step * (zscore_shrinkage(LINEAR["members"]) if sample_zscore else 1))


def test_useful_share_at_its_ends():
    assert useful_share(30, 1000, 0.0) == 1 / 1000
    assert useful_share(30, 1000, 1.0) == pytest.approx(32 / 1031)
    half = members_for_half_useful(4_000_000, 0.7)
    assert useful_share(half, 4_000_000, 0.7) == pytest.approx(0.5, abs=1e-12)
    assert half == pytest.approx(4_000_000 / 0.7, rel=1e-5)
    assert zscore_shrinkage(2) == pytest.approx(1 / math.sqrt(math.pi))
    assert zscore_shrinkage(1000) == pytest.approx(1 - 3 / 4000, rel=1e-6)


@pytest.mark.slow
def test_the_modes_of_a_quadratic_reward_settle_where_theory_says():
    alpha, sigma, members, fitness_noise = 0.2, 0.1, 48, 0.15
    curvatures = torch.tensor([1.0] * 40 + [0.4] * 40, dtype=torch.float64)
    generator = torch.Generator().manual_seed(11)
    shrinkage = zscore_shrinkage(members)

    fitness_std = stationary_fitness_std(alpha, sigma, curvatures.tolist(), members, fitness_noise, shrinkage)
    contractions = [mode_contraction(alpha, sigma, curvature, fitness_std, shrinkage) for curvature in (1.0, 0.4)]
    variances = [mode_second_moment(alpha, contraction, members) for contraction in contractions]

    spreads = []

    def reward(points):
        noise = torch.randn(len(points), generator=generator, dtype=torch.float64)
        fitness = -0.5 * points.square() @ curvatures + fitness_noise * noise
        spreads.append(fitness.var().item())
        return fitness

    start = torch.cat([math.sqrt(v) * torch.randn(40, generator=generator) for v in variances])
    theta, base = {"w": start.reshape(8, 10)}, {"w": torch.zeros(8, 10)}
    visited = []
    for step in range(4000):
        es_step(theta, base, reward, alpha, members, sigma, generator, step)
        visited.append(theta["w"].flatten().double())
    squares = torch.stack(visited[200:]).square()
    # Each mode's mean over time is one sample; the 40 modes of a group are nearly independent.
    within_three_errors(squares[:, :40].mean(0), variances[0])
    within_three_errors(squares[:, 40:].mean(0), variances[1])
    assert math.sqrt(torch.tensor(spreads[200:]).mean()) == pytest.approx(fitness_std, rel=0.02)


def test_a_mode_relaxes_to_its_stationary_variance():
    variance = mode_second_moment(0.1, 0.9, 10)
    assert variance == pytest.approx(0.001 / 0.19)
    moments = [mode_second_moment(0.1, 0.9, 10, steps, start=0.5) for steps in range(4)]
    assert moments[0] == 0.25
    for before, after in zip(moments, moments[1:], strict=False):
        assert after == pytest.approx(0.81 * before + 0.001)
    assert mode_second_moment(0.1, 0.9, 10, 1000, start=0.5) == pytest.approx(variance)
    assert mode_second_moment(0.1, 1.0, 10, 50, start=0.5) == pytest.approx(0.25 + 0.05)
    with pytest.raises(ValueError, match="alpha is too large"):
        mode_second_moment(0.1, -1.2, 10)


@pytest.mark.parametrize("shrinkage", [1.0, 0.8])
def test_the_self_consistent_spread_is_a_fixed_point(shrinkage):
    alpha, sigma, members, fitness_noise, curvatures = 0.3, 0.2, 16, 0.05, [0.0, 0.5, 1.0, 4.0]
    std = stationary_fitness_std(alpha, sigma, curvatures, members, fitness_noise, shrinkage)
    contractions = [mode_contraction(alpha, sigma, c, std, shrinkage) for c in curvatures[1:]]
    variances = [mode_second_moment(alpha, contraction, members) for contraction in contractions]
    slope = sum(sigma**2 * c**2 * v for c, v in zip(curvatures[1:], variances, strict=True))
    curved = sigma**4 / 2 * sum(c**2 for c in curvatures)
    assert std**2 == pytest.approx(slope + curved + fitness_noise**2, rel=1e-9)
    assert stationary_fitness_std(alpha, sigma, [0.0, 0.0], members, 0.3) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="same fitness"):
        stationary_fitness_std(alpha, sigma, [0.0], members, 0.0)
    with pytest.raises(ValueError, match="negative curvature"):
        stationary_fitness_std(alpha, sigma, [1.0, -1.0], members, 0.1)


@pytest.mark.parametrize("steps, expected", [(3, 3), (60, math.inf)])
def test_decay_holds_the_walk(steps, expected):
    alpha, members, decay, parameters = 0.05, 6, 0.1, 2500
    generator = torch.Generator().manual_seed(3)
    base = {"a": torch.randn(50, 30, generator=generator), "b": torch.randn(1000, generator=generator)}
    theta = {name: weight.clone() for name, weight in base.items()}
    for step in range(steps):
        es_step(theta, base, None, alpha, members, 0.01, generator, step, decay=decay)
    squares = torch.cat([(theta[name] - base[name]).flatten() for name in theta]).double().square()
    predicted = decayed_walk_norm(alpha, decay, expected, members, parameters)
    within_three_errors(squares, predicted**2 / parameters)
    published = decayed_walk_norm(alpha, decay, math.inf, members, parameters, decay_first=True)
    assert published**2 / parameters == pytest.approx(alpha**2 / (members * (1 - 0.9**2)))


def test_decay_at_its_ends_and_at_the_published_scale():
    assert decayed_walk_norm(0.01, 0.0, 9, 4, 100) == pytest.approx(random_walk_norm(0.01, 9, 4, 100))
    assert decayed_walk_norm(0.01, 1.0, 9, 4, 100) == 0
    # ES with N = 30, alpha = 5e-4 and decay alpha * 10 for 500 steps on Qwen2.5-3B
    norm = decayed_walk_norm(5e-4, 5e-3, 500, 30, 3_085_938_688, decay_first=True)
    assert norm == pytest.approx(50.6, abs=0.05)


def qwen3_4b():
    """Shapes of Qwen3-4B as vLLM holds them: q, k, v in one matrix, gate and up in one; embeddings tied."""
    hidden, intermediate, head, heads, key_value_heads, layers, vocabulary = 2560, 9728, 128, 32, 8, 36, 151_936
    layer = [
        ((heads + 2 * key_value_heads) * head, hidden),
        (hidden, heads * head),
        (2 * intermediate, hidden),
        (hidden, intermediate),
        (hidden,),
        (hidden,),
        (head,),
        (head,),
    ]
    return [(vocabulary, hidden), (hidden,), *layer * layers]


def test_dimension_of_shared_noise_in_qwen3_4b():
    shapes = qwen3_4b()
    assert effective_dimension(shapes, shared_noise=False) == 4_022_468_096
    assert sum({math.prod(shape) for shape in shapes}) == pytest.approx(490e6, rel=1e-3)  # distinct numbers
    dimension = effective_dimension(shapes, shared_noise=True)
    assert dimension == pytest.approx(1.23e8, rel=0.005)
    assert dimension / 4_022_468_096 == pytest.approx(0.031, abs=5e-4)
    assert effective_dimension(shapes, shared_noise=True, across_sizes=True) < dimension / 2


@pytest.mark.parametrize("shared", [False, True])
def test_dimension_is_that_of_the_trainers_noise(shared):
    shapes = {"a": (24, 16), "b": (24, 16), "c": (16, 24), "d": (10, 16), "e": (64,), "f": (64,)}
    noise = Noise(shared)
    weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
    draws = torch.stack(
        [torch.cat([noise.draw(seed, n, w).flatten() for n, w in weights.items()]) for seed in range(400)]
    ).double()
    products = (draws @ draws.T)[torch.triu_indices(400, 400, offset=1).unbind()]
    parameters = sum(math.prod(shape) for shape in shapes.values())
    # Independent draws with covariance C: E (u . w)^2 = tr C^2. Pairs share draws; 400 draws are no 79,800 samples.
    dimension = parameters**2 / products.square().mean().item()
    assert dimension == pytest.approx(effective_dimension(shapes.values(), shared, across_sizes=True), rel=0.05)
    if shared:
        only_equal = effective_dimension(shapes.values(), shared)
        assert only_equal == 1440**2 / (384 * 9 + 160 + 64 * 4)
        assert dimension < 0.75 * only_equal
