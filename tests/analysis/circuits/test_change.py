"""Overlap against its null, cross-faithfulness, transplants, activity and LoRA ranks, on random tiny models."""

import copy
import math

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from analysis.__main__ import build_parser
from analysis.circuits.batch import Batch
from analysis.circuits.change import ChangeOptions, edge_change_by_layer, task_change
from analysis.circuits.edges import attribute_edges
from analysis.circuits.intensity import edge_weights, statistics
from analysis.circuits.nodes import CircuitModel
from analysis.circuits.overlap import (
    change_in_scores,
    jaccard,
    profile,
    recall,
    spearman,
    top,
    top_jaccard,
    weighted_jaccard,
    with_null,
)
from analysis.circuits.ranks import critical_layers, lora_patterns, random_layers
from analysis.circuits.transplant import transplant
from eval.errors import UserError
from eval.storage import read_json
from tests.tiny import random_checkpoint, random_model


def random_batch(size: int, length: int = 6, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    clean, corrupted = torch.randint(6, 90, (2, size, length), generator=generator)
    answers = torch.stack([torch.randperm(90, generator=generator)[:2] for _ in range(size)])
    return Batch(clean, corrupted, torch.ones_like(clean), answers[:, 0], answers[:, 1])


def changed_copy(model: nn.Module, layer: int, scale: float) -> nn.Module:
    """The model with the MLP output of one layer scaled."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.model.layers[layer].mlp.down_proj.weight.mul_(scale)
    return model


@pytest.fixture(scope="module")
def base():
    return random_model("llama", seed=1)[0]


def test_sets():
    assert top(torch.tensor([0.0, 3.0, 3.0, -9.0]), 2) == {1, 2}
    assert jaccard({1, 2}, {2, 3}) == 1 / 3 and recall({1, 2}, {2, 3, 4}) == 0.5
    assert jaccard(set(), set()) == recall(set(), {1}) == 1.0


def test_likenesses():
    one, other = torch.tensor([[1.0, -2.0, 0.0, 4.0]]), torch.tensor([[1.0, 1.0, 3.0, 2.0]])
    assert weighted_jaccard(one, other).item() == pytest.approx((1 + 1 + 0 + 2) / (1 + 2 + 3 + 4))
    assert top_jaccard(one, other, 2).item() == pytest.approx(1 / 3)
    draws = torch.randn(2, 30, generator=torch.Generator().manual_seed(0))
    assert spearman(*draws).item() == pytest.approx(np.corrcoef(draws.argsort(1).argsort(1))[0, 1])
    # Ranks 1.5, 1.5, 3 and 1, 2, 3, wherever the equal scores stand: covariance 1.5, variances 1.5 and 2.
    tied = torch.tensor([[5.0, 5.0, 9.0], [9.0, 5.0, 5.0]]), torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    assert spearman(*tied).tolist() == pytest.approx([1.5 / math.sqrt(3)] * 2)
    assert change_in_scores(torch.tensor([1.0, -3.0]), torch.tensor([3.0, -4.0])) == {
        "total": 0.75,
        "increase": 0.5,
        "decrease": 0.25,
    }


def test_profile_leaves_the_input_out():
    found = profile(
        torch.tensor([100.0, 1.0, -1.0, 2.0, 0.0, 4.0, 0.0]), ("input", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1")
    )
    assert found == {"attention": 6 / 8, "depth": 4 / 8}


def test_a_model_is_as_like_itself_as_its_null_and_an_unrelated_one_is_not():
    generator = torch.Generator().manual_seed(0)
    strength = torch.linspace(-3, 3, 40)
    one, again, other = (strength + torch.randn(60, 40, generator=generator) for _ in range(3))
    other = other.flip(1)
    same = with_null(spearman, one, again, 300, seed=0)
    assert same["low"] <= 0 <= same["high"] and same["null"] > 0.95
    different = with_null(spearman, one, other, 300, seed=0)
    assert different["high"] < -1 and different["value"] < -0.9
    assert with_null(spearman, one, again, 300, seed=0) == same


def test_unchanged_models_do_not_change_and_a_changed_layer_is_found(base):
    model = CircuitModel(base)
    other = CircuitModel(changed_copy(base, layer=1, scale=1.5))
    again = CircuitModel(copy.deepcopy(base))
    batches = [random_batch(8, seed=0)], [random_batch(8, seed=1)]
    options = ChangeOptions(resamples=50, rows=64)
    result, found = task_change({"base": model, "again": again, "other": other}, *batches, options)

    same = result["overlap"]["base|again"]
    for level in ("nodes", "edges"):
        assert same[level]["jaccard"]["value"] == 1.0 and same[level]["spearman"]["value"] == pytest.approx(1.0)
        assert same[level]["score_change"] == {"total": 0.0, "increase": 0.0, "decrease": 0.0}
        assert same[level]["shared"] == same[level]["size"]
    assert result["edge_change"]["again"] == [0.0, 0.0, 0.0]
    assert result["overlap"]["base|other"]["edges"]["weighted"]["value"] < 1.0
    assert all(change > 0 for change in result["edge_change"]["other"])

    # A circuit's faithfulness in its own model is the same wherever it stands in the matrix.
    cross = result["cross_faithfulness"]
    assert cross["base"]["base"] == cross["again"]["base"] == cross["base"]["again"]
    assert cross["base"]["base"]["f"][-1] == pytest.approx(1.0, abs=1e-6)
    assert cross["base"]["other"] != cross["base"]["base"]
    assert set(result["transplant"]) == {"base>again", "again>base", "base>other", "other>base"}
    assert result["circuits"]["base"]["scores"] == found["base"].nodes.scores.tolist()


def test_edge_change_by_layer_counts_every_edge_once(base):
    model, other = CircuitModel(base), CircuitModel(changed_copy(base, 0, 2.0))
    batches = [random_batch(4)]
    one, two = (attribute_edges(some, batches, "nap") for some in (model, other))
    by_layer = edge_change_by_layer(one, two)
    assert len(by_layer) == 3
    assert sum(by_layer) == pytest.approx((two.scores - one.scores).abs().sum().item())
    assert by_layer[0] == pytest.approx((two.scores - one.scores)[0].abs().sum().item())


def test_models_of_other_shapes_are_refused(base):
    other = copy.deepcopy(base)
    other.model.layers = other.model.layers[:1]
    with pytest.raises(UserError, match="other does not have the shape of base"):
        task_change(
            {"base": CircuitModel(base), "other": CircuitModel(other)},
            [random_batch(2)],
            [random_batch(2)],
            ChangeOptions(),
        )


def test_transplants_of_everything_of_nothing_and_of_the_changed_node(base):
    """Only layer 1's MLP differs, so its activations carry the whole difference and layer 0's carry none."""
    receiver, donor = CircuitModel(base), CircuitModel(changed_copy(base, 1, 3.0))
    batch = random_batch(5)
    count, changed = len(receiver.nodes), receiver.index["m1"]
    sets = torch.zeros(4, count, dtype=torch.bool)
    sets[1], sets[2, changed] = True, True
    sets[3, receiver.index["m0"]] = True
    found, own, other = transplant(receiver, donor, batch, sets, batch_size=2, chunk=3)
    assert (own - other).abs().min() > 1e-3
    for row, expected in ((0, own), (1, other), (2, other), (3, own)):
        assert torch.allclose(found[row], expected, atol=1e-4)


def test_edge_weights_are_derivatives_of_the_loss(base):
    """What a block reads is scaled down by hand; the loss must follow the weight of the edge, to first order."""
    model = CircuitModel(base)
    prompts, completions = [[10, 11, 12], [20, 21]], [[30, 31], [40]]
    weights = edge_weights(model, prompts, completions, batch_size=2)
    one = torch.cat([edge_weights(model, [p], [c], 1) for p, c in zip(prompts, completions, strict=True)])
    assert weights.shape == (2, 5, 5) and torch.allclose(weights, one, atol=1e-5)
    assert (weights.tril(-1) == 0).all()

    def loss(reduction: float) -> float:
        """Of the first answer, when layer 1's MLP reads `reduction` less of what layer 0's MLP wrote."""
        ids = torch.tensor([[*prompts[0], *completions[0]]])
        kept = {}
        handles = [
            base.model.layers[0].mlp.register_forward_hook(lambda _m, _a, output: kept.update(mlp=output)),
            base.model.layers[1].post_attention_layernorm.register_forward_pre_hook(
                lambda _m, arguments: (arguments[0] - reduction * kept["mlp"],)
            ),
        ]
        with torch.no_grad():
            logits = base(ids).logits.double()[0, 2:4]
        for handle in handles:
            handle.remove()
        return nn.functional.cross_entropy(logits, torch.tensor(completions[0])).item()

    step = 1e-2
    slope = (loss(step) - loss(-step)) / (2 * step)
    # Writers: input, a0, m0, a1, m1. Readers: a0, m0, a1, m1, head.
    assert weights[0, 2, 3].item() == pytest.approx(slope, rel=1e-2, abs=1e-4)


def test_statistics_of_weights_with_known_moments():
    weights = torch.zeros(2, 2, 2, dtype=torch.float64)
    weights[:, 0, 0], weights[:, 0, 1], weights[:, 1, 1] = 1.0, -1.0, 4.0
    weights[:, 1, 0] = 99.0  # no edge
    found = statistics(weights, bins=10)
    centred = np.array([1.0, -1.0, 4.0]) - 4 / 3
    assert found["intensity"] == pytest.approx(2.0) and found["edges"] == 3 and found["answers"] == 2
    assert found["entropy"] == pytest.approx(math.log(3))
    assert found["kurtosis"] == pytest.approx((centred**4).mean() / (centred**2).mean() ** 2 - 3)
    assert found["intensity_low"] == found["intensity_high"] == pytest.approx(2.0)


def test_critical_layers_and_their_control():
    change = {0: 1.0, 1: 5.0, 2: 1.0, 3: 1.5}
    assert critical_layers(change) == [1] and critical_layers(change, 2) == [1, 3]
    assert critical_layers({0: 1.0, 1: 1.0, 2: 1.0}) == [0, 1, 2]
    control = random_layers(4, [1, 3], seed=0)
    assert len(control) == 2 and control != [1, 3] and control == random_layers(4, [1, 3], seed=0)
    with pytest.raises(UserError, match="no other choice exists"):
        random_layers(2, [0, 1], seed=0)


def test_the_patterns_give_peft_the_ranks(base):
    options = LoraConfig(
        r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM", **lora_patterns([1], rank=5, alpha=10)
    )
    adapted = get_peft_model(copy.deepcopy(base), options)
    ranks = {
        (name.split(".layers.")[1][0], weight.shape[0])
        for name, weight in adapted.named_parameters()
        if "lora_A" in name
    }
    assert ranks == {("0", 2), ("1", 5)}


def test_the_command_stores_the_change_of_checkpoints(tmp_path, capsys):
    for name, seed in (("base", 0), ("es", 1)):
        random_checkpoint(tmp_path / name, seed=seed)
    words = [
        "circuits",
        "--base",
        tmp_path / "base",
        "--checkpoints",
        f"es={tmp_path / 'es'}",
        "--tasks",
        "docstring_short",
        "--examples",
        "5",
        "--method",
        "nap",
        "--output",
        tmp_path / "out",
        "--device",
        "cpu",
    ]
    run_command(words)
    results = read_json(tmp_path / "out" / "results.json")
    found = results["circuits"]["docstring_short"]
    assert results["methods"] == ["es"] and set(found["overlap"]) == {"base|es"}
    spearman = found["overlap"]["base|es"]["nodes"]["spearman"]
    assert spearman["value"] < 0.9 and spearman["difference"] < 0
    assert found["examples"]["train"]["examples"] == 5
    run_command(words)
    assert "holds circuits of these checkpoints and options already" in capsys.readouterr().out
    with pytest.raises(UserError, match="unknown circuit task 'docstrin'; did you mean 'docstring'"):
        run_command([*words, "--tasks", "docstrin"])
    with pytest.raises(UserError, match="--method 'nape' is unknown"):
        run_command([*words, "--method", "nape"])


def run_command(words: list) -> None:
    arguments = build_parser().parse_args([str(word) for word in words])
    arguments.run(arguments)
