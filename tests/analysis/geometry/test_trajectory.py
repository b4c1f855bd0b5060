import json
import math

import pytest
import torch
from safetensors.torch import save_file

from analysis.geometry import trajectory
from analysis.geometry.trajectory import drift, run_checkpoints
from eval.errors import UserError


Q0 = "model.layers.0.self_attn.q_proj.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"
KEYS = {
    "norm",
    "relative_norm",
    "step_norm",
    "successive_cosine",
    "cosine_with_final",
    "path_length",
    "random_norm",
    "random_cosine_with_final",
}


def save(folder, tensors):
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    return folder


def walk(tmp_path, steps):
    """Folders of base (all 2) and of the points after each step; a step maps names to what is added."""
    values = {Q0: torch.full((3, 3), 2.0), DOWN: torch.full((2, 4), 2.0)}
    base = save(tmp_path / "base", values)
    points = {}
    for number, step in enumerate(steps, start=1):
        values = {name: tensor + step.get(name, 0) for name, tensor in values.items()}
        points[f"{number}"] = save(tmp_path / f"{number}", values)
    return base, points


def single(shape, *where, value=1.0):
    tensor = torch.zeros(shape)
    tensor[where] = value
    return tensor


def test_a_planted_path(tmp_path):
    # 3 along one axis; 4 along another; back by 3 along the first
    steps = [
        {Q0: single((3, 3), 0, 0, value=3.0)},
        {DOWN: single((2, 4), 1, 1, value=4.0)},
        {Q0: single((3, 3), 0, 0, value=-3.0)},
    ]
    result = drift(*walk(tmp_path, steps))
    assert result["checkpoints"] == ["1", "2", "3"]
    path = result["all"]
    assert set(path) == KEYS
    assert path["norm"] == pytest.approx([3, 5, 4], abs=1e-12)
    assert path["relative_norm"] == pytest.approx([norm / math.sqrt(17 * 4) for norm in (3, 5, 4)], abs=1e-12)
    assert path["step_norm"] == pytest.approx([3, 4, 3], abs=1e-12)
    assert path["successive_cosine"] == pytest.approx([0, 0], abs=1e-12)
    assert path["cosine_with_final"] == pytest.approx([0, 0.8, 1], abs=1e-12)
    assert path["path_length"] == pytest.approx(10)
    assert path["random_norm"] == pytest.approx([3, 5, math.sqrt(34)])
    assert path["random_cosine_with_final"] == pytest.approx([3 / math.sqrt(34), 5 / math.sqrt(34), 1])

    of_kind = result["per_kind"]
    assert set(of_kind) == {"down_proj", "q_proj"}
    assert of_kind["q_proj"]["norm"] == [3, 3, 0]
    assert of_kind["q_proj"]["successive_cosine"] == [None, None]  # the second step left it where it was
    assert of_kind["q_proj"]["cosine_with_final"] == [None, None, None]
    assert of_kind["down_proj"]["random_cosine_with_final"] == [None, 1, 1]
    json.dumps(result, allow_nan=False)


def test_a_straight_line_and_a_turn_back(tmp_path):
    forward, back = {Q0: torch.full((3, 3), 0.5)}, {Q0: torch.full((3, 3), -0.25)}
    path = drift(*walk(tmp_path, [forward, forward, back]))["all"]
    assert path["successive_cosine"] == pytest.approx([1, -1])
    assert path["cosine_with_final"] == pytest.approx([1, 1, 1])
    assert path["norm"] == pytest.approx([1.5, 3, 2.25])


def test_random_steps_look_like_a_random_walk(tmp_path):
    generator = torch.Generator().manual_seed(0)
    size = 40_000
    values = torch.zeros(size)
    base, points = save(tmp_path / "base", {Q0: values}), {}
    for number in range(1, 9):
        values = values + torch.randn(size, generator=generator)
        points[str(number)] = save(tmp_path / str(number), {Q0: values})
    path = drift(base, points)["all"]
    assert path["norm"] == pytest.approx([math.sqrt(size * n) for n in range(1, 9)], rel=0.03)
    assert path["norm"] == pytest.approx(path["random_norm"], rel=0.03)
    assert path["cosine_with_final"] == pytest.approx([math.sqrt(n / 8) for n in range(1, 9)], abs=0.03)
    assert max(map(abs, path["successive_cosine"])) < 5 / math.sqrt(size)
    assert path["relative_norm"] == [None] * 8


def test_blocks_shards_and_precisions_agree_with_whole_tensors(tmp_path, monkeypatch):
    monkeypatch.setattr(trajectory, "BLOCK", 28)  # blocks of 7 scalars for base and 3 points
    generator = torch.Generator().manual_seed(1)
    base = {Q0: torch.randn(5, 9, generator=generator).bfloat16(), DOWN: torch.randn(31, generator=generator)}
    points = [{name: t.float() + 0.1 * torch.randn(t.shape, generator=generator) for name, t in base.items()}]
    points += [{name: t + 1e-4 * torch.randn(t.shape, generator=generator) for name, t in points[0].items()}]
    points += [{name: t.bfloat16() for name, t in points[1].items()}]
    folders = {}
    for number, tensors in enumerate(points):
        folder = tmp_path / f"point{number}"
        folder.mkdir()
        for name, tensor in tensors.items():
            save_file({name: tensor}, folder / f"{name}.safetensors")
        index = {"weight_map": {name: f"{name}.safetensors" for name in tensors}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        folders[f"point{number}"] = folder

    path = drift(save(tmp_path / "base", base), folders)["all"]

    flat = [torch.cat([t.double().flatten() for t in tensors.values()]) for tensors in (base, *points)]
    steps = [after - before for before, after in zip(flat, flat[1:], strict=False)]
    assert path["step_norm"] == pytest.approx([step.norm().item() for step in steps], rel=1e-12)
    assert path["norm"] == pytest.approx([(point - flat[0]).norm().item() for point in flat[1:]], rel=1e-12)
    cosines = [torch.cosine_similarity(a, b, dim=0).item() for a, b in zip(steps, steps[1:], strict=False)]
    assert path["successive_cosine"] == pytest.approx(cosines, abs=1e-12)
    final = [torch.cosine_similarity(point - flat[0], flat[-1] - flat[0], dim=0).item() for point in flat[1:]]
    assert path["cosine_with_final"] == pytest.approx(final, abs=1e-12)


def test_the_checkpoint_that_is_not_finite_is_named(tmp_path):
    base, points = walk(tmp_path, [{}, {}, {}])
    save_file({Q0: torch.full((3, 3), float("nan")), DOWN: torch.zeros(2, 4)}, points["2"] / "model.safetensors")
    with pytest.raises(UserError) as error:
        drift(base, points)
    assert Q0 in str(error.value) and str(points["2"]) in str(error.value)


def test_checkpoints_of_a_run_folder_in_order(tmp_path):
    for name in ("checkpoints/step_2", "checkpoints/step_10", "checkpoints/step_1.tmp", "checkpoint-9"):
        (tmp_path / name).mkdir(parents=True)
    assert run_checkpoints(tmp_path) == {
        "2": tmp_path / "checkpoints/step_2",
        "9": tmp_path / "checkpoint-9",
        "10": tmp_path / "checkpoints/step_10",
    }
    with pytest.raises(UserError, match="holds no checkpoints"):
        run_checkpoints(tmp_path / "nothing")
