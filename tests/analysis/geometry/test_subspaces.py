import math

import pytest
import torch

from analysis.geometry.subspaces import compare_subspaces, energy_in_subspaces, principal_cosines, random_mean_square


def orthonormal(n, k, generator):
    return torch.linalg.qr(torch.randn(n, k, dtype=torch.float64, generator=generator))[0]


def test_planted_angles_come_out_in_any_basis():
    generator = torch.Generator().manual_seed(0)
    frame = orthonormal(12, 5, generator)
    angles = torch.tensor([0.0, 0.3, math.pi / 2], dtype=torch.float64)
    a = frame[:, :3]
    b = torch.stack([frame[:, 0], math.cos(0.3) * frame[:, 1] + math.sin(0.3) * frame[:, 3], frame[:, 4]], 1)
    cosines = principal_cosines(a @ orthonormal(3, 3, generator), b @ orthonormal(3, 3, generator))
    assert cosines.tolist() == pytest.approx(angles.cos().tolist(), abs=1e-12)


def test_subspaces_of_different_dimension():
    identity = torch.eye(6)
    compared = compare_subspaces(identity[:, :1], identity[:, :4])
    assert compared["dimensions"] == [1, 4]
    assert compared["cosines"] == [1.0]
    assert compared["null"] == 4 / 6
    assert compare_subspaces(identity[:, :0], identity[:, :4]) is None
    assert compare_subspaces(torch.ones(1, 1), torch.ones(1, 1)) is None


@pytest.mark.parametrize("n, p, q", [(10, 3, 3), (24, 2, 7), (8, 8, 5)])
def test_the_null_is_that_of_random_subspaces(n, p, q):
    generator = torch.Generator().manual_seed(1)
    draws = 3000
    a, b = (torch.linalg.qr(torch.randn(draws, n, k, dtype=torch.float64, generator=generator))[0] for k in (p, q))
    sampled = (a.mT @ b).square().sum((1, 2)) / min(p, q)
    mean, std = random_mean_square(n, p, q)
    assert sampled.mean().item() == pytest.approx(mean, abs=3 * std / math.sqrt(draws) + 1e-12)
    assert sampled.std().item() == pytest.approx(std, rel=0.08, abs=1e-12)


def test_energy_of_a_planted_matrix():
    generator = torch.Generator().manual_seed(2)
    left, right = orthonormal(20, 4, generator), orthonormal(15, 4, generator)
    # 3 of the column and row directions asked for, 4 in the columns only, 5 in the rows only, 1 in neither
    matrix = (
        3 * torch.outer(left[:, 0], right[:, 1])
        + 4 * torch.outer(left[:, 1], right[:, 2])
        + 5 * torch.outer(left[:, 2], right[:, 0])
        + torch.outer(left[:, 3], right[:, 3])
    )
    energy = energy_in_subspaces(matrix.float(), left[:, :2].float(), right[:, :2].float())
    total = 9 + 16 + 25 + 1
    assert energy["left"]["share"] == pytest.approx((9 + 16) / total, abs=1e-6)
    assert energy["right"]["share"] == pytest.approx((9 + 25) / total, abs=1e-6)
    assert energy["both"]["share"] == pytest.approx(9 / total, abs=1e-6)
    assert [energy[side]["null"] for side in ("left", "right", "both")] == [2 / 20, 2 / 15, 4 / 300]
    assert energy_in_subspaces(torch.zeros(20, 15), left[:, :2], right[:, :2]) is None


def test_noise_has_the_expected_energy_in_any_subspace():
    generator = torch.Generator().manual_seed(3)
    left, right = orthonormal(30, 5, generator).float(), orthonormal(40, 5, generator).float()
    draws = [energy_in_subspaces(torch.randn(30, 40, generator=generator), left, right) for _ in range(400)]
    for side in ("left", "right", "both"):
        shares = torch.tensor([draw[side]["share"] for draw in draws], dtype=torch.float64)
        error = shares.std().item() / math.sqrt(len(draws))
        assert shares.mean().item() == pytest.approx(draws[0][side]["null"], abs=3 * error)
