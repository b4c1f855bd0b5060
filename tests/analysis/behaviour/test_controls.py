"""Verdicts on lines of planted landscapes: one basin, two basins, and a landscape on which every line is clean."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from analysis.barriers import (
    largest_gap,
    loss_barrier,
    relative_loss_gaps,
    reward_barrier,
    untrained_line,
    with_controls,
)
from analysis.behaviour.controls import line_controls, mirrored, randomised
from analysis.behaviour.lines import Landscape, straight_lines
from analysis.geometry.checkpoints import Checkpoint


SIZE = 200
# Where training went: two thirds of the update along one axis of each tensor.
ALONG = torch.zeros(SIZE)
ALONG[0] = 3.0


def checkpoint(folder, x, y):
    folder.mkdir()
    save_file({"x.weight": x, "y.weight": y}, folder / "model.safetensors")
    return folder


@pytest.fixture
def models(tmp_path):
    """Base at 0; es and grpo at the same place but for little noise; far in another one."""
    torch.manual_seed(0)
    noise = [0.02 * torch.randn(SIZE) for _ in range(4)]
    zero = torch.zeros(SIZE)
    return {
        "base": checkpoint(tmp_path / "base", zero, zero.clone()),
        "es": checkpoint(tmp_path / "es", ALONG + noise[0], ALONG + noise[1]),
        "grpo": checkpoint(tmp_path / "grpo", ALONG + noise[2], ALONG + noise[3]),
        "far": checkpoint(tmp_path / "far", -ALONG, ALONG.roll(1)),
    }


def point(reward, loss):
    ends = {"reward_low": reward - 0.02, "reward_high": reward + 0.02, "loss_low": loss - 0.001, "loss_high": loss}
    return {"reward": reward, "reward_total": 1000, "loss": loss, **ends}


def basins(centres):
    """Reward 0.9 and loss 0.02 at each centre, falling to 0.1 and 1 around it within a third of the way to base."""

    def measure(weights):
        found = torch.cat([weight for _, weight in weights])
        squares = [float((found - centre).square().sum()) for centre in centres]
        near = math.exp(-min(squares) / 4)
        return point(0.1 + 0.8 * near, 1 - 0.98 * near)

    return measure


def slope(weights):
    """What lies along one axis is all that counts, with returns that diminish: every line is clean, or nearly."""
    along = max(0.0, float(dict(weights)["x.weight"][0]) / 3)
    gained = 1 - math.exp(-3 * along)
    return point(0.2 + 0.7 * gained, 0.04 - 0.005 * gained)


def judged(models, measure, first="es", second="grpo", **options):
    landscape = Landscape(models, measure, {})
    line = straight_lines(landscape, 9, [(first, second)])["lines"][f"{first}|{second}"]
    return line_controls(landscape, first, second, 5, line, **options)


def centre(models, name):
    return torch.cat(list(load_file(models[name] / "model.safetensors").values()))


def test_two_models_in_one_basin_have_no_barrier_and_every_control_has_one(models):
    found = judged(models, basins([centre(models, "grpo")]))
    for quantity in ("reward", "loss"):
        assert found[quantity]["verdict"] == "no barrier" and found[quantity]["passed"] == [], quantity
        assert set(found[quantity]["controls"]) == {"random", "mirrored", "untrained"}
        assert all(control["outcome"] in ("clear", "lag") for control in found[quantity]["controls"].values())
    assert found["base"]["reward"] == pytest.approx(0.1, abs=0.02)


def test_two_models_in_two_basins_have_a_barrier(models):
    found = judged(models, basins([centre(models, "es"), centre(models, "far")]), second="far")
    assert {found[quantity]["verdict"] for quantity in ("reward", "loss")} == {"a barrier"}


def test_where_random_updates_have_no_barrier_either_none_is_claimed(models):
    found = judged(models, slope)
    assert found["reward"]["outcome"] == "none" and found["reward"]["verdict"] == "cannot tell"
    assert "random" in found["reward"]["passed"] and "untrained" not in found["reward"]["passed"]
    assert found["loss"]["verdict"] == "cannot tell"


def test_random_updates_in_place_of_both_models_are_never_called_clean(models, tmp_path):
    """On pure random updates "no barrier" is no finding, whatever the landscape."""
    for seed, name in enumerate(("es", "grpo")):
        source = randomised(models["base"], models[name], seed=10 + seed)
        checkpoint(tmp_path / f"random-{name}", source.read("x.weight"), source.read("y.weight"))
    updates = models | {name: tmp_path / f"random-{name}" for name in ("es", "grpo")}
    for measure in (slope, basins([centre(models, "grpo")])):
        found = judged(updates, measure)
        assert "no barrier" not in {found[quantity]["verdict"] for quantity in ("reward", "loss")}


def test_a_permuted_control_counts_where_there_is_one(models):
    found = judged(models, basins([centre(models, "grpo")]), permuted=models["grpo"])
    assert found["reward"]["passed"] == ["permuted"] and found["reward"]["verdict"] == "cannot tell"


def test_the_controls_are_as_long_as_the_update_in_every_tensor(models):
    base, moved = Checkpoint(models["base"]), Checkpoint(models["far"])
    for made in (mirrored(base, moved), randomised(base, moved), randomised(base, moved, seed=1)):
        for name in base.names:
            update = moved.read(name) - base.read(name)
            assert (made.read(name) - base.read(name)).norm().item() == pytest.approx(update.norm().item(), rel=1e-5)
    assert torch.equal(mirrored(base, moved).read("x.weight"), ALONG)
    blocks = torch.cat(list(randomised(base, moved).blocks("x.weight", 64)))
    assert torch.equal(blocks, randomised(base, moved).read("x.weight"))


def made_line(reward, loss):
    last = len(reward) - 1
    ts = [i / last for i in range(last + 1)]
    even = [((1 - t) * reward[0] + t * reward[-1], (1 - t) * loss[0] + t * loss[-1]) for t in ts]
    return {
        "ts": ts,
        "reward": reward,
        "reward_low": [value - 0.02 for value in reward],
        "reward_high": [value + 0.02 for value in reward],
        "loss": loss,
        "loss_low": [value - 0.0005 for value in loss],
        "loss_high": loss,
        "reward_barrier": max(chord - value for (chord, _), value in zip(even, reward, strict=True)),
        "loss_barrier": max(value - chord for (_, chord), value in zip(even, loss, strict=True)),
    }


def test_the_untrained_base_fails_although_its_gap_is_small_in_nats():
    """References that cost 0.025, 0.037 and, at the base, 0.038: a gap of 0.007 nats is a quarter of the even line."""
    line = made_line([0.82, 0.85, 0.86, 0.88, 0.9], [0.025, 0.027, 0.03, 0.034, 0.037])
    through = untrained_line(line, {"reward": 0.26, "reward_low": 0.24, "reward_high": 0.28} | loss_of(0.038))
    assert through["loss"] == [0.025, 0.038, 0.038, 0.038, 0.037] and through["loss_barrier"] < 0.011
    assert max(relative_loss_gaps(through)) == pytest.approx(0.01 / 0.028)
    assert loss_barrier(line) == "none" and loss_barrier(through) == "clear"
    assert reward_barrier(through) == "clear" and largest_gap(through, "reward") == pytest.approx(0.88 - 0.26)
    assert with_controls(line, {"untrained": through})["loss"]["verdict"] == "no barrier"
    assert with_controls(line, {})["loss"]["verdict"] == "cannot tell", "without a control there is no power"


def loss_of(value):
    return {"loss": value, "loss_low": value - 0.0005, "loss_high": value}


def test_a_loss_that_nobody_measured_is_not_known():
    line = made_line([0.8] * 3, [0.04] * 3) | {"loss": [None] * 3, "loss_barrier": None}
    found = with_controls(line, {"copy": line})
    assert found["loss"]["verdict"] == "not known" and found["loss"]["gap"] is None
