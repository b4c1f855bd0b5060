import numpy as np
import pytest
import torch

from analysis.clocks.mechanism import (
    ablated,
    ablation,
    attention_to_mates,
    attention_weights,
    behaviour,
    group_mates,
    hidden_states,
    partial_parities,
    parts,
    probe_accuracy,
    relation_ablation,
    relation_accuracy,
)
from eval.generative.checkpoint import build_model
from eval.rules import make_rule


CONFIG = {
    "width": 32,
    "depth": 2,
    "heads": 2,
    "mlp_ratio": 2.0,
    "positions": "learned",
    "positional_scale": 1.0,
    "sigma_data": 1.0,
    "p_mean": -0.3,
    "p_std": 0.8,
    "sampler_steps": 4,
    "sigma_min": 0.01,
    "sigma_max": 10.0,
    "rho": 7.0,
    "churn": 0.0,
    "churn_noise": 1.0,
}
MODELS = ("mlp", "dit", "masked_dit", "gpt2", "llama")


@pytest.fixture(scope="module")
def rule():
    return make_rule("parity", length=12, group=3)


def model(name, rule, seed=0):
    """An untrained model whose output depends on all of its parts."""
    torch.manual_seed(seed)
    built = build_model(CONFIG | {"model": name}, rule).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    return built


def test_group_mates_are_found_from_the_rule_itself(rule):
    mates = group_mates(rule)
    expected = np.kron(np.eye(4, dtype=bool), np.ones((3, 3), dtype=bool)) & ~np.eye(12, dtype=bool)
    assert (mates == expected).all()
    halves = group_mates(make_rule("xor_of_halves", length=6))
    assert np.argwhere(halves[0]).ravel().tolist() == [2, 4]
    square = group_mates(make_rule("latin_square", side=4)).reshape(4, 4, 16)
    assert np.argwhere(square[1, 2]).ravel().tolist() == [2, 4, 5, 7, 10, 14]


@pytest.mark.parametrize("name", ["dit", "masked_dit", "gpt2", "llama"])
def test_attention_weights_are_the_models_own(rule, name):
    strings = rule.draw(5, np.random.default_rng(0))
    weights = attention_weights(model(name, rule), strings)
    assert weights.shape == (2, 5, 2, 12, 12)
    sums = weights.sum(-1)
    if name in ("gpt2", "llama"):
        # The start token takes the rest, and nobody looks at what it has to predict or at what follows.
        assert (sums < 1).all() and sums[..., 0].abs().max() == 0
        assert (weights * torch.ones(12, 12).triu()).abs().max() == 0
    else:
        assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)
    assert attention_weights(model("mlp", rule), strings) is None


def test_the_attention_of_gpt2_is_computed_as_before_afterwards(rule):
    built = model("gpt2", rule)
    before = built.network.config._attn_implementation
    attention_weights(built, rule.draw(2, np.random.default_rng(0)))
    assert built.network.config._attn_implementation == before


def test_mass_on_mates_is_relative_to_even_attention(rule):
    mates = group_mates(rule)
    even = torch.full((1, 3, 2, 12, 12), 1 / 12)
    assert attention_to_mates(even, mates, causal=False) == [[pytest.approx(1)] * 2]
    only = torch.as_tensor(mates).float()[None, None, None] / 2
    assert attention_to_mates(only, mates, causal=False) == [[pytest.approx(6)]]
    causal = torch.tril(torch.ones(12, 12), diagonal=-1) / torch.arange(1, 13)[:, None]
    assert attention_to_mates(causal[None, None, None], mates, causal=True) == [[pytest.approx(1)]]


@pytest.mark.parametrize("name", MODELS)
def test_every_part_changes_what_the_model_computes_and_comes_back(rule, name):
    built = model(name, rule)
    expected = ["m0", "m1"] if name == "mlp" else ["a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1"]
    assert parts(built) == expected
    strings = torch.as_tensor(rule.draw(8, np.random.default_rng(0)))
    noise = built.corrupt(8, torch.Generator().manual_seed(0))

    def losses():
        with torch.no_grad():
            return built(strings, *noise)

    whole = losses()
    for part in parts(built):
        with ablated(built, part):
            assert not torch.equal(losses(), whole), part
        assert torch.equal(losses(), whole)
    with pytest.raises(KeyError, match="a9.h0"):
        with ablated(built, "a9.h0"):
            pass


def test_ablating_all_heads_equals_a_projection_without_input(rule):
    built = model("dit", rule)
    strings = torch.as_tensor(rule.draw(4, np.random.default_rng(0)))
    noise = built.corrupt(4, torch.Generator().manual_seed(0))
    with torch.no_grad(), ablated(built, "a0.h0"), ablated(built, "a0.h1"):
        silent = built(strings, *noise)
    with torch.no_grad():
        built.network.blocks[0].attention.project.weight.zero_()
        assert torch.allclose(built(strings, *noise), silent, atol=1e-6)


def test_behaviour_counts_valid_and_copied_samples_apart(rule):
    built = model("gpt2", rule)
    strings, _ = built.sample(64, torch.Generator().manual_seed(0))
    valid = strings[rule.valid(strings)]
    found = behaviour(built, rule, valid[:1], samples=64)
    assert found["valid"] == len(valid) / 64 and found["copies"] == (strings == valid[0]).all(axis=1).mean()
    assert found["novel_valid"] == pytest.approx(found["valid"] - found["copies"])
    effects = ablation(built, rule, valid[:1], samples=16)
    assert list(effects) == ["none", *parts(built)]


def test_probes_read_what_is_there_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2000, 10, generator=generator)
    assert probe_accuracy(features, features[:, 3].sign()) > 0.97
    assert abs(probe_accuracy(features, torch.randn(2000, generator=generator).sign()) - 0.5) < 0.06


def test_parities_of_untrained_models_are_at_chance_and_planted_ones_are_found(rule):
    for name, key in (("gpt2", "prefix_2"), ("dit", "others")):
        found = partial_parities(model(name, rule), 3, samples=800)
        assert list(found) == [key] and len(found[key]) == 3
        assert abs(found[key][0] - 0.5) < 0.06
    assert partial_parities(model("mlp", rule), 3) is None
    assert partial_parities(model("gpt2", make_rule("parity", length=12, group=2)), 2) is None


def test_hidden_states_stand_where_their_symbol_was_read(rule):
    built = model("gpt2", rule)
    strings = rule.draw(3, np.random.default_rng(0))
    changed = strings.copy()
    changed[:, 4] = 1 - changed[:, 4]
    before, after = hidden_states(built, strings), hidden_states(built, changed)
    for a, b in zip(before, after, strict=True):
        assert a.shape == (3, 11, 32)
        assert torch.equal(a[:, :4], b[:, :4]) and not torch.equal(a[:, 4], b[:, 4])


def test_relations_are_scored_apart_from_objects():
    rule = make_rule("spatial_relation", side=2)
    built = model("gpt2", rule)
    found = relation_accuracy(built, rule, samples=32)
    assert found["both"] == pytest.approx(found["objects"] * found["relation"])
    effects = relation_ablation(built, rule, samples=8)
    assert list(effects) == ["none", *parts(built)]
    assert 0 < effects["a0.h0"]["attention"] < 1 and "attention" not in effects["m0"]
