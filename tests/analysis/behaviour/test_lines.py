import math
from dataclasses import dataclass

import datasets
import pytest
import torch
from safetensors.torch import save_file

from analysis.behaviour.lines import (
    Landscape,
    barrier,
    completion_loss,
    connectivity,
    greedy_completions,
    interpolate,
    line,
    measure_point,
    part_lines,
    reference_completions,
    reference_loss,
    reward_barrier,
    straight_lines,
    task_landscape,
)
from analysis.geometry.checkpoints import Checkpoint
from eval.errors import UserError
from eval.intervals import wilson_interval
from eval.rollout.hf import HFEngine
from eval.tasks import TASKS, Score


TS = [i / 8 for i in range(9)]


def is_right(text):
    return sum(map(ord, text)) % 2 == 1


@dataclass(frozen=True)
class OddSum:
    """A task that a random model solves now and then: an answer whose character codes add up to an odd number."""

    name: str = "odd_sum"
    system_prompt: str = ""
    answerable: bool = True

    def load(self, split, size, seed):
        return datasets.Dataset.from_list(
            [{"prompt": [{"role": "user", "content": f"{i}+{seed}"}]} for i in range(size)]
        )

    def score(self, completion, row):
        return Score(float(is_right(completion)) if self.answerable else None, completion)


@pytest.fixture
def odd_sum(monkeypatch):
    monkeypatch.setitem(TASKS, "odd_sum", OddSum())
    return OddSum()


def test_a_quadratic_has_no_barrier():
    assert barrier(TS, [(t - 0.3) ** 2 for t in TS]) == 0.0
    assert barrier(TS, [2.0 - t for t in TS]) == 0.0


def test_the_barrier_of_a_double_well_is_its_height():
    height = 0.7
    well = [height * 16 * t**2 * (1 - t) ** 2 for t in TS]
    assert barrier(TS, well) == pytest.approx(height, abs=1e-15)
    tilted = [loss + 3 - 2 * t for t, loss in zip(TS, well, strict=True)]
    assert barrier(TS, tilted) == pytest.approx(height, abs=1e-15)
    assert barrier(TS, [-loss for loss in well]) == 0.0


def test_the_barrier_of_a_reward_is_its_drop_below_the_chord():
    assert reward_barrier([0.0, 0.5, 1.0], [0.8, 0.3, 0.4]) == pytest.approx(0.3)
    assert reward_barrier([0.0, 0.5, 1.0], [0.8, 0.9, 0.4]) == 0.0


def test_a_barrier_needs_both_ends():
    with pytest.raises(ValueError, match="from t = 0 to t = 1"):
        barrier([0.0, 0.5], [1.0, 2.0])


def test_interpolation_in_float32_with_exact_ends(tmp_path):
    torch.manual_seed(0)
    a = {"x.weight": torch.randn(50), "y.weight": torch.randn(3, 4).bfloat16()}
    b = {"x.weight": torch.randn(50) * 1e-4, "y.weight": torch.randn(3, 4).bfloat16()}
    a["x.weight"][:2] = torch.tensor([-0.0, 0.0])
    b["x.weight"][:2] = torch.tensor([0.0, -0.0])
    for name, tensors in (("a", a), ("b", b)):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")

    for t, end in ((0.0, a), (1.0, b)):
        weights = dict(interpolate(tmp_path / "a", tmp_path / "b", t))
        assert list(weights) == list(end)
        for name, weight in weights.items():
            assert torch.equal(weight.view(torch.int32), end[name].float().view(torch.int32))

    for name, weight in interpolate(tmp_path / "a", tmp_path / "b", 0.25):
        assert weight.dtype == torch.float32
        exact = 0.75 * a[name].double() + 0.25 * b[name].double()
        assert torch.allclose(weight.double(), exact, rtol=1e-6, atol=1e-7)


def test_interpolation_refuses_different_models(tmp_path):
    for name, tensors in (("a", {"x.weight": torch.ones(2)}), ("b", {"x.weight": torch.ones(3)})):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    with pytest.raises(UserError, match="x.weight has shape"):
        next(interpolate(tmp_path / "a", tmp_path / "b", 0.5))


def test_a_line_through_a_planted_landscape(tmp_path):
    for name, value in (("a", -1.0), ("b", 1.0)):
        (tmp_path / name).mkdir()
        save_file({"x.weight": torch.full((1,), value)}, tmp_path / name / "model.safetensors")

    def double_well(weights):
        x = dict(weights)["x.weight"].item()
        return {"reward": abs(x), "loss": (x**2 - 1) ** 2}

    result = line(tmp_path / "a", tmp_path / "b", TS, double_well)
    assert result["ts"] == TS
    assert result["loss"] == [((2 * t - 1) ** 2 - 1) ** 2 for t in TS]
    assert result["loss_barrier"] == 1.0
    assert result["reward_barrier"] == 1.0

    quadratic = line(
        tmp_path / "a", tmp_path / "b", TS, lambda w: {"reward": 1.0, "loss": dict(w)["x.weight"].item() ** 2}
    )
    assert quadratic["loss_barrier"] == 0.0


@pytest.fixture
def two_wells(tmp_path):
    """A loss with a barrier of height 1 in layer 1's up_proj alone, and quadratic in the rest; a at -1, b at 1."""
    names = [
        "model.embed_tokens.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
    ]
    paths = {}
    for model, value in (("base", 0.0), ("a", -1.0), ("b", 1.0)):
        paths[model] = tmp_path / model
        paths[model].mkdir()
        tensors = {name: torch.full((1,), value) for name in names}
        save_file(tensors, paths[model] / "model.safetensors")

    def measure(weights):
        x = {name: weight.item() for name, weight in weights}
        well = (x[names[2]] ** 2 - 1) ** 2
        return {"reward": -well, "loss": well + sum(x[name] ** 2 for name in names if name != names[2])}

    return Landscape(paths, measure, {"task": "planted"})


@pytest.mark.parametrize(
    "by, parts, culprit",
    [("layer", ["-", "0", "1"], "1"), ("kind", ["embed_tokens", "up_proj", "down_proj"], "up_proj")],
)
def test_a_barrier_is_located(two_wells, by, parts, culprit):
    result = part_lines(two_wells, by, points=9, pairs=[("a", "b")])
    assert (result["task"], result["by"]) == ("planted", by)
    # In both directions: one part moves from a to b, and one from b to a.
    assert list(result["lines"]) == ["a|b", "b|a"]
    for lines in result["lines"].values():
        assert sorted(lines) == sorted(parts)
        for part, curve in lines.items():
            assert curve["ts"] == TS and curve["loss"][0] == 3.0
            assert curve["reward_barrier"] == (1.0 if part == culprit else 0.0)
    # Halfway, the well adds 1 and the part's other tensor, quadratic like all the rest, takes 1 away.
    assert result["lines"]["a|b"][culprit]["loss"][4] == 3.0 + 1.0 - 1.0
    assert result["lines"]["a|b"][parts[0]]["loss"] == [2.0 + (2 * t - 1) ** 2 for t in TS]


def test_the_rest_stays_where_it_is(tmp_path):
    for name, value in (("a", 1.0), ("b", 3.0)):
        (tmp_path / name).mkdir()
        tensors = {"x.weight": torch.full((2,), value), "y.weight": torch.full((2,), value)}
        save_file(tensors, tmp_path / name / "model.safetensors")
    for t, moved in ((0.0, 1.0), (0.5, 2.0), (1.0, 3.0)):
        weights = dict(interpolate(tmp_path / "a", tmp_path / "b", t, lambda name: name == "y.weight"))
        assert weights["x.weight"].tolist() == [1.0, 1.0]
        assert weights["y.weight"].tolist() == [moved, moved]


def test_chosen_pairs(two_wells):
    lines = straight_lines(two_wells, 5, [("b", "a"), ("base", "b")])["lines"]
    assert list(lines) == ["b|a", "base|b"]
    assert lines["b|a"]["reward_barrier"] == 1.0
    with pytest.raises(UserError, match="no model 'c' here; choose among base, a, b"):
        straight_lines(two_wells, 5, [("a", "c")])
    with pytest.raises(UserError, match="a, a names one model twice"):
        part_lines(two_wells, "layer", 5, [("a", "a")])
    with pytest.raises(UserError, match="at least 3"):
        part_lines(two_wells, "layer", 2)


def test_the_model_at_an_end_is_measured_once(two_wells):
    seen = []

    def measure(weights):
        weights = list(weights)
        seen.append([weight.item() for _, weight in weights])
        return two_wells.measure(weights)

    straight_lines(Landscape(two_wells.models, measure, {}), points=3)
    assert sorted(values[0] for values in seen) == [-1.0, -0.5, 0.0, 0.0, 0.5, 1.0]  # three models, three middles


def test_loss_is_transformers_own_and_does_not_depend_on_the_batch(tiny_checkpoint):
    model = HFEngine.from_pretrained(tiny_checkpoint("a", seed=0), device="cpu").model
    batch = [([10, 11, 12], [20, 21]), ([13], [22, 23, 24, 25, 26])]
    together = completion_loss(model, batch)
    for (prompt, completion), losses in zip(batch, together, strict=True):
        ids = torch.tensor([prompt + completion])
        labels = torch.tensor([[-100] * len(prompt) + completion])
        with torch.no_grad():
            expected = model(input_ids=ids, labels=labels).loss.item()
        assert losses.shape == (len(completion),)
        assert losses.mean().item() == pytest.approx(expected, rel=1e-5)
        (alone,) = completion_loss(model, [(prompt, completion)])
        assert alone.tolist() == pytest.approx(losses.tolist(), rel=1e-5)


def test_references_are_the_right_greedy_completions_each_once(tiny_checkpoint, odd_sum):
    a, b = tiny_checkpoint("a", seed=0), tiny_checkpoint("b", seed=1)
    engine = HFEngine.from_pretrained(a, device="cpu")
    rows = list(odd_sum.load("test", 12, 0))
    references, counts = reference_completions(engine, {"a": a, "twin": a, "b": b}, odd_sum, 12, 0, 6, batch_size=5)

    expected = []
    for path in (a, b):
        alone = HFEngine.from_pretrained(path, device="cpu")
        answers = greedy_completions(alone, [row["prompt"] for row in rows], 6, batch_size=5)
        expected += [
            (row["prompt"], answer.token_ids)
            for row, answer in zip(rows, answers, strict=True)
            if is_right(answer.text)
        ]
    assert 0 < len(expected) < 24
    assert references == expected  # a and b differ everywhere, a and its twin nowhere
    assert counts["total"] == len(expected)
    assert counts["tokens"] == sum(len(token_ids) for _, token_ids in expected)
    assert counts["prompts"] == 12
    assert counts["per_model"]["a"] == counts["per_model"]["twin"]
    assert counts["per_model"]["a"] + counts["per_model"]["b"] == len(expected)


def test_the_ends_of_a_line_are_the_checkpoints_themselves(tiny_checkpoint, odd_sum):
    base = tiny_checkpoint("base", seed=0)
    b = tiny_checkpoint("b", seed=1, max_shard_size="20KB")
    engine = HFEngine.from_pretrained(base, device="cpu")
    rows = list(odd_sum.load("test", 8, 0))
    references, _ = reference_completions(engine, {"base": base, "b": b}, odd_sum, 8, 0, 6, batch_size=8)

    def measure(weights):
        return measure_point(engine, weights, odd_sum, 8, 0, references, 6, batch_size=8)

    result = line(base, b, [0.0, 0.5, 1.0], measure)

    for position, path in ((0, base), (2, b)):
        alone = HFEngine.from_pretrained(path, device="cpu")
        answers = greedy_completions(alone, [row["prompt"] for row in rows], 6, batch_size=8)
        right = sum(is_right(answer.text) for answer in answers)
        assert result["reward"][position] == right / 8
        assert (result["reward_low"][position], result["reward_high"][position]) == wilson_interval(right, 8)
        assert result["reward_total"][position] == 8
        loss = reference_loss(alone, references, batch_size=8, seed=0)
        assert (result["loss"][position], result["loss_low"][position], result["loss_high"][position]) == loss
    assert result["loss"][1] not in (result["loss"][0], result["loss"][2])
    ends = {0.0: measure(Checkpoint(base).items()), 1.0: measure(Checkpoint(b).items())}
    assert line(base, b, [0.0, 0.5, 1.0], measure, ends) == result


def test_connectivity_joins_every_pair(tiny_checkpoint, odd_sum):
    paths = {name: tiny_checkpoint(name, seed=seed) for seed, name in enumerate(("base", "es", "grpo"))}
    result = connectivity(
        paths["base"],
        {"es": paths["es"], "grpo": paths["grpo"]},
        task="odd_sum",
        size=6,
        points=3,
        seed=0,
        max_new_tokens=5,
        batch_size=6,
        device="cpu",
    )
    assert list(result["lines"]) == ["base|es", "base|grpo", "es|grpo"]
    assert result["references"]["prompts"] == 6 and list(result["references"]["per_model"]) == ["base", "es", "grpo"]
    assert result["references"]["total"] > 0
    lines = result["lines"]
    for curve in lines.values():
        assert curve["ts"] == [0.0, 0.5, 1.0]
        assert all(math.isfinite(loss) for loss in curve["loss"])
        assert curve["loss_barrier"] == barrier(curve["ts"], curve["loss"])
    # One model has one loss, at whichever end of whichever line.
    assert lines["base|es"]["loss"][0] == lines["base|grpo"]["loss"][0]
    assert lines["base|es"]["loss"][2] == lines["es|grpo"]["loss"][0]
    assert lines["base|grpo"]["loss"][2] == lines["es|grpo"]["loss"][2]


def test_part_lines_of_a_real_model(tiny_checkpoint, odd_sum):
    base, es = tiny_checkpoint("base", seed=0), tiny_checkpoint("es", seed=1)
    landscape = task_landscape(base, {"es": es}, "odd_sum", 6, 0, max_new_tokens=5, batch_size=6, device="cpu")
    lines = part_lines(landscape, "layer", points=3)["lines"]
    assert list(lines) == ["base|es", "es|base"]
    assert sorted(lines["base|es"]) == ["-", "0", "1"]
    for start, one_way in (("base", lines["base|es"]), ("es", lines["es|base"])):
        assert {curve["loss"][0] for curve in one_way.values()} == {landscape.at(start)["loss"]}
        assert all(math.isfinite(loss) for curve in one_way.values() for loss in curve["loss"])
    # By the end, base's layer 1 and es's everything else are together in one model.
    engine = HFEngine.from_pretrained(es, device="cpu")
    engine.set_weights((name, weight) for name, weight in Checkpoint(base).items() if ".layers.1." in name)
    references, _ = reference_completions(
        HFEngine.from_pretrained(base, device="cpu"), landscape.models, odd_sum, 6, 0, 5, batch_size=6
    )
    expected, _, _ = reference_loss(engine, references, batch_size=6, seed=0)
    assert lines["es|base"]["1"]["loss"][2] == expected


def test_without_references_there_is_no_loss_but_a_reward(tiny_checkpoint):
    base, es = tiny_checkpoint("base", seed=0), tiny_checkpoint("es", seed=1)
    result = connectivity(base, {"es": es}, "countdown", 4, 3, seed=0, max_new_tokens=3, batch_size=4, device="cpu")
    assert result["references"] == {"total": 0, "tokens": 0, "prompts": 4, "per_model": {"base": 0, "es": 0}}
    (curve,) = result["lines"].values()
    assert curve["loss"] == [None, None, None] and curve["loss_barrier"] is None
    assert curve["reward"] == [0.0, 0.0, 0.0] and curve["reward_barrier"] == 0.0


def test_mistakes_are_told_in_one_line(tiny_checkpoint, monkeypatch):
    base, es = tiny_checkpoint("base", seed=0), tiny_checkpoint("es", seed=1)
    with pytest.raises(UserError, match="at least 3"):
        connectivity(base, {"es": es}, "countdown", 4, 2, seed=0, max_new_tokens=3, batch_size=4, device="cpu")
    monkeypatch.setitem(TASKS, "broken", OddSum(answerable=False))
    with pytest.raises(UserError, match="can be scored"):
        connectivity(base, {"es": es}, "broken", 4, 3, seed=0, max_new_tokens=3, batch_size=4, device="cpu")
