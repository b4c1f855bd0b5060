import math

import pytest
import torch
from safetensors.torch import save_file

from analysis.behaviour.lines import Landscape, task_landscape
from analysis.behaviour.plane import Frame, plane, plane_frame, plane_weights, ticks
from eval.errors import UserError


def planted(tmp_path, **vectors):
    """Checkpoints of two tensors, x.weight [2] and y.weight [1, 2], that hold the four numbers of each vector."""
    paths = {}
    for name, vector in vectors.items():
        paths[name] = tmp_path / name
        paths[name].mkdir()
        tensors = {"x.weight": torch.tensor(vector[:2]), "y.weight": torch.tensor([vector[2:]])}
        save_file(tensors, paths[name] / "model.safetensors")
    return paths


def flat(weights) -> torch.Tensor:
    return torch.cat([weight.flatten() for _, weight in weights])


CORNERS = {"base": [1.0, 2.0, 3.0, 4.0], "es": [4.0, 2.0, 7.0, 4.0], "grpo": [4.0, 2.5, 7.0, 4.0]}


def test_coordinates_of_known_corners(tmp_path):
    paths = planted(tmp_path, **CORNERS)
    # es - base = (3, 0, 4, 0), grpo - base = (3, 0.5, 4, 0).
    frame = plane_frame(paths["base"], paths["es"], paths["grpo"])
    assert (frame.a_x, frame.b_x, frame.b_y) == pytest.approx((5.0, 5.0, 0.5), abs=1e-9)
    assert frame.shares(0.0, 0.0) == (0.0, 0.0)
    assert frame.shares(5.0, 0.0) == pytest.approx((1.0, 0.0))
    assert frame.shares(5.0, 0.5) == pytest.approx((0.0, 1.0))


def test_distances_on_the_plane_are_distances_of_weights():
    torch.manual_seed(0)
    o, a, b = torch.randn(3, 50, dtype=torch.float64)
    u, v = a - o, b - o
    b_x = (u @ v / u.norm()).item()
    frame = Frame(u.norm().item(), b_x, (v - b_x * u / u.norm()).norm().item())
    s, t = frame.shares(1.7, -0.4)
    assert (s * u + t * v).norm().item() == pytest.approx(math.hypot(1.7, -0.4))


def test_weights_on_the_plane(tmp_path):
    paths = list(planted(tmp_path, **CORNERS).values())
    assert flat(plane_weights(*paths, 0.0, 0.0)).tolist() == CORNERS["base"]
    assert flat(plane_weights(*paths, 1.0, 0.0)).tolist() == CORNERS["es"]
    assert flat(plane_weights(*paths, 0.0, 1.0)).tolist() == CORNERS["grpo"]
    assert flat(plane_weights(*paths, 0.5, -1.0)).tolist() == [-0.5, 1.5, 1.0, 4.0]


def test_a_quadratic_over_the_plane_is_a_quadratic_in_its_coordinates(tmp_path):
    paths = planted(tmp_path, **CORNERS)
    origin = torch.tensor(CORNERS["base"])

    def bowl(weights):
        square = (flat(weights) - origin).square().sum().item()
        return {"reward": -square, "loss": square}

    result = plane(Landscape(paths, bowl, {"task": "bowl"}), ["base", "es", "grpo"], points=7, margin=0.25)
    assert result["task"] == "bowl" and result["corners"] == ["base", "es", "grpo"]
    assert result["models"]["base"] == {"x": 0.0, "y": 0.0, "reward": 0.0, "loss": 0.0}
    assert result["models"]["es"] == {"x": 5.0, "y": 0.0, "reward": -25.0, "loss": 25.0}
    grpo = result["models"]["grpo"]
    assert (grpo["x"], grpo["y"], grpo["loss"]) == pytest.approx((5.0, 0.5, 25.25))
    assert result["xs"] == pytest.approx([-1.25, 0.0, 1.25, 2.5, 3.75, 5.0, 6.25])
    assert result["ys"] == pytest.approx([-0.125, 0.0, 0.125, 0.25, 0.375, 0.5, 0.625])
    for y, losses, rewards in zip(result["ys"], result["loss"], result["reward"], strict=True):
        assert losses == pytest.approx([x**2 + y**2 for x in result["xs"]], abs=1e-5)
        assert rewards == [-loss for loss in losses]


def test_an_axis_covers_the_corners_and_the_margin():
    assert ticks([3.0, 1.0, 2.0], points=3, margin=0.5) == [0.0, 2.0, 4.0]
    assert ticks([1.0, 3.0], points=2, margin=0.0) == [1.0, 3.0]


def test_what_is_no_plane(tmp_path):
    paths = planted(tmp_path, **CORNERS, middle=[2.5, 2.0, 5.0, 4.0], rounded=[2.5, 2.0, 5.0, 4.0001])
    landscape = Landscape(paths, lambda weights: {"reward": 0.0, "loss": 0.0}, {})
    for name in ("middle", "rounded"):
        with pytest.raises(UserError, match="lie on one straight line"):
            plane(landscape, ["base", "es", name], points=3, margin=0.0)
    with pytest.raises(UserError, match="names one model twice"):
        plane(landscape, ["base", "es", "es"], points=3, margin=0.0)
    with pytest.raises(UserError, match="no model 'gpro' here; choose among base, es"):
        plane(landscape, ["base", "es", "gpro"], points=3, margin=0.0)
    with pytest.raises(UserError, match="3 corners, not 2"):
        plane(landscape, ["base", "es"], points=3, margin=0.0)
    with pytest.raises(UserError, match="at least 2"):
        plane(landscape, ["base", "es", "grpo"], points=1, margin=0.0)
    with pytest.raises(UserError, match="the margin around the plane is nan"):
        plane(landscape, ["base", "es", "grpo"], points=3, margin=math.nan)


def test_the_plane_through_three_real_models(tiny_checkpoint):
    paths = {name: tiny_checkpoint(name, seed=seed) for seed, name in enumerate(("base", "es", "grpo"))}
    checkpoints = {"es": paths["es"], "grpo": paths["grpo"]}
    landscape = task_landscape(
        paths["base"], checkpoints, "yes_no", 4, 0, max_new_tokens=3, batch_size=4, device="cpu"
    )
    result = plane(landscape, ["base", "es", "grpo"], points=3, margin=0.0)
    # Of the three corners, two lie on the grid.
    assert result["xs"][0] == 0.0 and result["ys"][0] == 0.0
    assert result["reward"][0][0] == result["models"]["base"]["reward"]
    assert result["loss"][0][0] == result["models"]["base"]["loss"]
    assert [len(row) for row in result["reward"]] == [3, 3, 3]
    assert {total for row in result["reward_total"] for total in row} == {4}
    assert (result["task"], result["size"]) == ("yes_no", 4)
