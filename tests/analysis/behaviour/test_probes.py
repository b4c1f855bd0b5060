import pytest
import torch
from safetensors.torch import save_file

from analysis.behaviour.lines import Landscape, measure_point, task_landscape
from analysis.behaviour.probes import along_random, along_update, even_part, odd_part, probes, random_direction
from analysis.geometry.checkpoints import Checkpoint
from eval.errors import UserError
from eval.rollout.hf import HFEngine
from eval.tasks import TASKS


# An update of norm 5 in x.weight and 13 in y.weight; z.weight stays.
BASE = {"x.weight": [1.0, 2.0], "y.weight": [0.0, 0.0, 8.0], "z.weight": [1.0]}
MOVED = {"x.weight": [4.0, 6.0], "y.weight": [3.0, 4.0, 20.0], "z.weight": [1.0]}


@pytest.fixture
def paths(tmp_path):
    folders = {}
    for name, vectors in (("base", BASE), ("moved", MOVED)):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        save_file({k: torch.tensor(v) for k, v in vectors.items()}, folders[name] / "model.safetensors")
    return folders


def point(reward, loss):
    """A point whose intervals reach 0.5 down and 1 up."""
    ends = {"reward_low": reward - 0.5, "reward_high": reward + 1.0, "loss_low": loss - 0.5, "loss_high": loss + 1.0}
    return {"reward": reward, "loss": loss, **ends}


def slope_and_bowl(weights):
    """The reward is the sum of x and y, the loss the squared distance from base."""
    named = dict(weights)
    square = sum((named[name] - torch.tensor(BASE[name])).square().sum().item() for name in BASE)
    return point(named["x.weight"].sum().item() + named["y.weight"].sum().item(), square)


def test_a_linear_reward_is_odd_and_a_quadratic_loss_even(paths):
    landscape = Landscape(paths, slope_and_bowl, {"task": "planted"})
    result = probes(landscape, ["moved"], [0.25, 0.5, 1.0], seeds=[0, 1])
    assert result["task"] == "planted" and result["scales"] == [0.25, 0.5, 1.0] and result["seeds"] == [0, 1]
    assert (result["start"]["reward"], result["start"]["loss"]) == (11.0, 0.0)
    update = result["checkpoints"]["moved"]["update"]
    # The update adds 7 to the sum over x and 19 to that over y; its squared norm is 25 + 169.
    assert update["odd"]["reward"] == [6.5, 13.0, 26.0]
    assert update["even"]["reward"] == [0.0, 0.0, 0.0]
    assert update["odd"]["loss"] == [0.0, 0.0, 0.0]
    assert update["even"]["loss"] == [12.125, 48.5, 194.0]
    assert update["plus"]["reward"] == [17.5, 24.0, 37.0] and update["minus"]["reward"] == [4.5, -2.0, -15.0]
    # As long as the update in every tensor, but in another direction.
    for seed in ("0", "1"):
        random = result["checkpoints"]["moved"]["random"][seed]
        assert random["even"]["loss"] == pytest.approx([12.125, 48.5, 194.0], rel=1e-6)
        assert random["even"]["reward"] == pytest.approx([0.0, 0.0, 0.0], abs=1e-5)
        assert all(abs(odd) < 26.0 for odd in random["odd"]["reward"])
    odd = [result["checkpoints"]["moved"]["random"][seed]["odd"]["reward"][2] for seed in ("0", "1")]
    assert odd[0] != odd[1]
    assert result["checkpoints"]["moved"]["random_mean"]["odd"]["reward"][2] == pytest.approx(sum(odd) / 2)
    deviation = abs(odd[0] - odd[1]) / 2**0.5
    assert result["checkpoints"]["moved"]["random_std"]["odd"]["reward"][2] == pytest.approx(deviation)


def test_intervals_of_the_parts_add_up_at_their_worst():
    start, plus, minus = point(1.0, 2.0), point(3.0, 5.0), point(0.0, 1.0)
    odd, even = odd_part(plus, minus), even_part(start, plus, minus)
    assert (odd["reward_low"], odd["reward"], odd["reward_high"]) == (0.75, 1.5, 2.25)
    assert (odd["loss_low"], odd["loss"], odd["loss_high"]) == (1.25, 2.0, 2.75)
    assert (even["reward_low"], even["reward"], even["reward_high"]) == (-1.0, 0.5, 2.0)
    assert (even["loss_low"], even["loss"], even["loss_high"]) == (-0.5, 1.0, 2.5)


def test_random_directions(paths):
    start, moved = Checkpoint(paths["base"]), Checkpoint(paths["moved"])
    for name, weight in along_random(paths["base"], paths["moved"], seed=3, scale=-1.0):
        distance = (weight - start.read(name)).norm().item()
        assert distance == pytest.approx((moved.read(name) - start.read(name)).norm().item(), rel=1e-6)
        assert weight.dtype == torch.float32
    one = random_direction("a.weight", 0, (100, 100), 2.0)
    assert torch.equal(one, random_direction("a.weight", 0, (100, 100), 2.0))
    # Equal shapes in different tensors, or other seeds, give unrelated directions: |cosine| of some 1 / sqrt(10,000).
    for other in (random_direction("b.weight", 0, (100, 100), 2.0), random_direction("a.weight", 1, (100, 100), 2.0)):
        assert abs((one * other).sum().item() / 4) < 0.04


def test_along_the_update_lie_base_and_the_model(paths):
    for scale, vectors in ((0.0, BASE), (1.0, MOVED)):
        for name, weight in along_update(paths["base"], paths["moved"], scale):
            assert weight.tolist() == vectors[name]


def test_without_losses_the_rewards_remain(paths):
    def no_loss(weights):
        return slope_and_bowl(weights) | {"loss": None, "loss_low": None, "loss_high": None}

    result = probes(Landscape(paths, no_loss, {}), ["moved"], [1.0], seeds=[0])["checkpoints"]["moved"]
    assert result["update"]["odd"]["loss"] == [None] and result["update"]["even"]["loss_low"] == [None]
    assert result["update"]["odd"]["reward"] == [26.0]
    assert result["random_mean"]["odd"]["loss"] == [None]
    # One seed has no spread.
    assert result["random_std"]["odd"]["reward"] == [None]


@pytest.mark.parametrize(
    "names, scales, seeds, message",
    [
        (["moved"], [], [0], "give one or more positive"),
        (["moved"], [0.5, -1.0], [0], "give one or more positive"),
        (["moved"], [1.0], [], "different whole numbers"),
        (["moved"], [1.0], [2, 2], "different whole numbers"),
        (["base"], [1.0], [0], "no update 'base' to probe; choose among moved"),
    ],
)
def test_mistakes_are_told_in_one_line(paths, names, scales, seeds, message):
    with pytest.raises(UserError, match=message):
        probes(Landscape(paths, slope_and_bowl, {}), names, scales, seeds)


def test_probes_of_a_real_model(tiny_checkpoint):
    base, es = tiny_checkpoint("base", seed=0), tiny_checkpoint("es", seed=1)
    landscape = task_landscape(base, {"es": es}, "yes_no", 4, 0, max_new_tokens=3, batch_size=4, device="cpu")
    result = probes(landscape, ["es"], [0.5, 1.0], seeds=[0])
    update = result["checkpoints"]["es"]["update"]
    engine = HFEngine.from_pretrained(es, device="cpu")
    alone = measure_point(engine, Checkpoint(es).items(), TASKS["yes_no"], 4, 0, [], 3, batch_size=4)
    assert update["plus"]["reward"][1] == alone["reward"] and update["plus"]["reward_total"] == [4, 4]
    plus, minus, start = update["plus"]["reward"], update["minus"]["reward"], result["start"]["reward"]
    assert update["odd"]["reward"] == [(p - m) / 2 for p, m in zip(plus, minus, strict=True)]
    assert update["even"]["reward"] == [(p + m) / 2 - start for p, m in zip(plus, minus, strict=True)]
