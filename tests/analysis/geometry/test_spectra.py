import json
import math

import pytest
import torch
from safetensors.torch import save_file

from analysis.geometry import spectra
from analysis.geometry.spectra import (
    decompose,
    effective_rank,
    noise_quantile,
    random_edge,
    random_effective_rank,
    random_stable_rank,
    spectrum,
    stable_rank,
    update_spectra,
)
from eval.errors import UserError


Q0 = "model.layers.0.self_attn.q_proj.weight"
Q1 = "model.layers.1.self_attn.q_proj.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"
NORM = "model.norm.weight"
SHAPES = {Q0: (24, 12), Q1: (12, 12), DOWN: (10, 30)}


def save(folder, tensors):
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    return folder


def save_sharded(folder, tensors):
    folder.mkdir(parents=True)
    for number, (name, tensor) in enumerate(tensors.items()):
        save_file({name: tensor}, folder / f"part{number}.safetensors")
    index = {"weight_map": {name: f"part{number}.safetensors" for number, name in enumerate(tensors)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def frames(shape, generator):
    """Orthonormal columns [m, min] and [n, min]."""
    count = min(shape)
    return [torch.linalg.qr(torch.randn(side, count, dtype=torch.float64, generator=generator))[0] for side in shape]


def planted(shape, values, generator):
    left, right = frames(shape, generator)
    count = len(values)
    return left[:, :count] @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right[:, :count].T, left, right


@pytest.mark.parametrize("shape", [(50, 9), (9, 50), (12, 12)])
def test_planted_singular_values_and_vectors(shape, monkeypatch):
    monkeypatch.setattr(spectra, "SLAB_SCALARS", 7 * min(shape))  # several slabs, the last one short
    matrix, left, right = planted(shape, [5.0, 2.0, 0.5, 0.01], torch.Generator().manual_seed(0))
    found = decompose(matrix.float(), top=3)
    assert found.values.shape == (min(shape),)
    assert found.values[:4].tolist() == pytest.approx([5.0, 2.0, 0.5, 0.01], abs=1e-6)
    assert found.values[4:].max() < 1e-6
    assert found.left.shape == (shape[0], 3) and found.right.shape == (shape[1], 3)
    for k in range(3):
        assert abs(found.left[:, k].double() @ left[:, k]) == pytest.approx(1, abs=1e-6)
        assert abs(found.right[:, k].double() @ right[:, k]) == pytest.approx(1, abs=1e-6)
        # signs fit together: u v^T is unique, u and v alone are not
        assert found.left[:, k].double() @ matrix @ found.right[:, k].double() == pytest.approx(found.values[k].item())
    assert (found.left.T @ found.left - torch.eye(3)).abs().max() < 1e-6


def test_vectors_end_at_the_rank():
    matrix, _, _ = planted((20, 8), [3.0, 1.0], torch.Generator().manual_seed(0))
    assert decompose(matrix.float(), top=5).left.shape == (20, 2)
    of_zero = decompose(torch.zeros(4, 6), top=2)
    assert of_zero.left.shape == (4, 0) and of_zero.values.tolist() == [0.0] * 4


def test_ranks_of_known_spectra():
    equal = torch.full((7,), 3.0, dtype=torch.float64)
    assert stable_rank(equal) == pytest.approx(7) and effective_rank(equal) == pytest.approx(7)
    one = torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64)
    assert stable_rank(one) == 1 and effective_rank(one) == 1
    two = torch.tensor([2.0, 1.0], dtype=torch.float64)
    assert stable_rank(two) == pytest.approx(5 / 4)
    assert effective_rank(two) == pytest.approx((5 / 4) ** 0.8 * 5**0.2)


@pytest.mark.parametrize("shape", [(300, 200), (150, 600), (250, 250)])
def test_noise_looks_like_the_random_matrix_beside_it(shape):
    noise = 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(4))
    found = spectrum(decompose(noise, top=1).values, shape, top=1)
    assert found["norm"] == pytest.approx(noise.double().norm().item(), rel=1e-6)
    assert found["singular_values"][0] == pytest.approx(found["random_edge"], rel=0.03)
    assert found["above_noise"] == 0
    assert found["stable_rank"] == pytest.approx(found["random_stable_rank"], rel=0.06)
    assert found["effective_rank"] == pytest.approx(found["random_effective_rank"], rel=0.01)
    assert random_edge(shape, 1.0) ** -2 == pytest.approx(random_stable_rank(shape))
    assert random_effective_rank((1, 5)) == pytest.approx(math.exp(-0.1))


def test_one_in_a_hundred_noise_matrices_exceeds_the_quantile():
    generator = torch.Generator().manual_seed(5)
    draws, m, n = 6000, 40, 25
    matrices = torch.randn(draws, m, n, generator=generator)
    largest = torch.linalg.matrix_norm(matrices, 2)
    exceeded = (largest > noise_quantile((m, n), math.sqrt(m * n))).sum().item()
    # 60 expected; finite matrices keep the quantile's probability to some tenths of a per cent
    assert 30 <= exceeded <= 90


def test_a_planted_direction_stands_out_of_noise():
    generator = torch.Generator().manual_seed(6)
    signal, _, _ = planted((200, 100), [60.0, 40.0], generator)
    matrix = torch.randn(200, 100, generator=generator) + signal.float()
    assert spectrum(decompose(matrix, top=2).values, (200, 100), top=2)["above_noise"] == 2


def checkpoints(tmp_path, dtype=torch.float32):
    """Base with known singular directions; update a within them, update b partly and still where a does not move."""
    generator = torch.Generator().manual_seed(7)
    base, a, b = {}, {}, {}
    for name, shape in SHAPES.items():
        weight, left, right = planted(shape, [8.0, 4.0, 1.0, 0.5], generator)
        base[name] = weight.float()
        a[name] = (
            weight + 0.3 * torch.outer(left[:, 0], right[:, 1]) + 0.1 * torch.outer(left[:, 1], right[:, 4])
        ).float()
        tilted = math.cos(0.4) * left[:, 0] + math.sin(0.4) * left[:, 5]
        b[name] = (weight + 0.2 * torch.outer(tilted, right[:, 6])).float()
    b[Q1] = base[Q1].clone()
    for tensors in (base, a, b):
        tensors[NORM] = torch.ones(12)
    return base, a, b


@pytest.mark.parametrize("writer", [save, save_sharded])
def test_planted_updates(tmp_path, writer):
    base, a, b = (writer(tmp_path / n, t) for n, t in zip("xab", checkpoints(tmp_path), strict=True))

    result = update_spectra(base, {"a": a, "b": b}, top=2)

    json.dumps(result, allow_nan=False)
    assert result["top"] == 2
    assert result["other_parameters"] == [NORM]
    of_a = result["checkpoints"]["a"]["matrices"]
    assert set(of_a) == set(SHAPES)
    for name, shape in SHAPES.items():
        assert of_a[name]["norm"] == pytest.approx(math.sqrt(0.1), abs=1e-6)
        assert of_a[name]["singular_values"] == pytest.approx([0.3, 0.1], abs=1e-6)
        assert of_a[name]["stable_rank"] == pytest.approx(0.1 / 0.09, abs=1e-5)
        assert of_a[name]["effective_rank"] == pytest.approx(
            math.exp(-0.9 * math.log(0.9) - 0.1 * math.log(0.1)), abs=1e-5
        )
        assert of_a[name]["base_overlap"]["left"] == {"share": pytest.approx(1, abs=1e-6), "null": 2 / shape[0]}
        assert of_a[name]["base_overlap"]["right"] == {"share": pytest.approx(0.9, abs=1e-6), "null": 2 / shape[1]}
        assert of_a[name]["base_overlap"]["both"]["share"] == pytest.approx(0.9, abs=1e-6)

    of_b = result["checkpoints"]["b"]
    assert of_b["matrices"][Q0]["base_overlap"]["left"]["share"] == pytest.approx(math.cos(0.4) ** 2, abs=1e-6)
    still = of_b["matrices"][Q1]
    assert still["norm"] == 0 and still["stable_rank"] is None and still["base_overlap"] is None
    assert of_b["per_kind"]["q_proj"]["matrices"] == 1  # Q1 did not move
    assert of_b["per_kind"]["q_proj"]["stable_rank"] == pytest.approx(1, abs=1e-6)

    assert list(result["pairs"]) == ["a|b"]
    pair = result["pairs"]["a|b"]
    assert pair["matrices"][Q0]["left"]["dimensions"] == [2, 1]
    assert pair["matrices"][Q0]["left"]["cosines"] == pytest.approx([math.cos(0.4)], abs=1e-6)
    assert pair["matrices"][Q0]["right"]["cosines"] == pytest.approx([0.0], abs=1e-6)
    assert pair["matrices"][Q1] == {"left": None, "right": None}
    assert pair["per_kind"]["q_proj"]["left"] == {"mean_square": pytest.approx(math.cos(0.4) ** 2), "null": 2 / 24}


def test_bf16_checkpoints(tmp_path):
    base, a, _ = checkpoints(tmp_path)
    rounded = {key: {n: t.bfloat16() for n, t in tensors.items()} for key, tensors in (("base", base), ("a", a))}
    paths = {key: save(tmp_path / key, tensors) for key, tensors in rounded.items()}
    result = update_spectra(paths["base"], {"a": paths["a"]}, top=3)["checkpoints"]["a"]["matrices"]
    for name in SHAPES:
        update = rounded["a"][name].double() - rounded["base"][name].double()
        assert result[name]["singular_values"] == pytest.approx(torch.linalg.svdvals(update)[:3].tolist(), rel=1e-6)


def test_a_checkpoint_that_moved_nowhere(tmp_path):
    base, a, _ = checkpoints(tmp_path)
    paths = {"still": save(tmp_path / "s", base), "a": save(tmp_path / "a", a)}
    result = update_spectra(save(tmp_path / "base", base), paths, top=2)
    assert result["checkpoints"]["still"]["per_kind"] == {"q_proj": None, "down_proj": None}
    assert result["pairs"]["still|a"]["per_kind"] == {"q_proj": None, "down_proj": None}


def test_weights_that_are_not_finite_are_named(tmp_path):
    base, a, _ = checkpoints(tmp_path)
    a[DOWN][0, 0] = float("inf")
    with pytest.raises(UserError) as error:
        update_spectra(save(tmp_path / "base", base), {"a": save(tmp_path / "a", a)})
    assert DOWN in str(error.value) and str(tmp_path / "a") in str(error.value)
