import math

import pytest
import torch

from analysis.theory import random_walk_norm


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
