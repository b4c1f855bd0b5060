import math

import numpy as np
import pytest

from analysis.clocks.score_field import (
    SIGMAS,
    basins,
    capture_table,
    denoising_loss,
    half_recovery_sigma,
    one_step,
    repeated,
    return_probability,
    score_clock,
    violate,
    whole_flow,
)
from eval.rules import make_rule
from eval.rules.encoding import encode
from eval.rules.oracles import empirical_denoiser, independent_bit_denoiser


@pytest.fixture(scope="module")
def parity():
    rule = make_rule("parity", length=12, group=3)
    return rule, rule.split(train=32, held_out=64, seed=0)


def test_violating_strings_differ_in_one_symbol_and_break_the_rule(parity):
    rule, split = parity
    broken = violate(split.held_out, rule, seed=0)
    assert ((broken != split.held_out).sum(axis=1) == 1).all()
    assert not rule.valid(broken).any()
    square = make_rule("latin_square", side=4)
    strings = square.split(train=8, held_out=16, seed=0).held_out
    broken = violate(strings, square, seed=1)
    assert ((broken != strings).sum(axis=1) == 1).all() and broken.max() <= 3 and not square.valid(broken).any()
    threshold = make_rule("threshold", length=4, ones=1)
    strings = np.array([[1, 1, 1, 1], [0, 1, 0, 0]], dtype=np.int8)
    assert violate(strings, threshold, seed=0).tolist() == [[0, 0, 0, 0]]
    with pytest.raises(ValueError, match="no change of one symbol"):
        violate(strings[:1], threshold, seed=0)


def test_score_clock_is_one_at_the_rule_and_minus_one_at_the_training_set(parity):
    rule, split = parity
    empirical = empirical_denoiser(split.train)
    clean = encode(split.held_out)
    sigmas = (0.4, 0.7, 1.0)
    at_rule = score_clock(rule.denoise_rule, rule.denoise_rule, empirical, clean, sigmas)
    assert at_rule["index"] == pytest.approx([1, 1, 1]) and at_rule["to_rule"] == [0, 0, 0]
    at_train = score_clock(empirical, rule.denoise_rule, empirical, clean, sigmas)
    assert at_train["index"] == pytest.approx([-1, -1, -1])
    assert at_train["to_rule"] == pytest.approx(at_train["between"])
    half = score_clock(
        lambda y, s: (rule.denoise_rule(y, s) + empirical(y, s)) / 2, rule.denoise_rule, empirical, clean, sigmas
    )
    assert half["index"] == pytest.approx([0, 0, 0], abs=1e-5)
    other = score_clock(independent_bit_denoiser(), rule.denoise_rule, empirical, clean, sigmas)
    assert all(-1 < value < 1 for value in other["index"])
    assert score_clock(empirical, empirical, empirical, clean, (0.5,))["index"] == [None]


def test_no_denoiser_has_a_smaller_loss_than_the_rule_on_valid_strings(parity):
    rule, split = parity
    vertices = {
        "train": encode(split.train),
        "held_out": encode(rule.valid_strings),
        "violating": encode(violate(split.held_out, rule, seed=0)),
    }
    sigmas = (0.5, 0.8, 1.2)
    losses = {
        name: denoising_loss(denoise, vertices, sigmas)
        for name, denoise in (
            ("rule", rule.denoise_rule),
            ("train", empirical_denoiser(split.train)),
            ("none", independent_bit_denoiser()),
        )
    }
    for i in range(3):
        assert losses["rule"]["held_out"][i] < losses["none"]["held_out"][i] < losses["train"]["held_out"][i]
        assert losses["train"]["train"][i] < losses["rule"]["train"][i]
        # The rule's optimum pulls a violating string away from itself.
        assert losses["rule"]["violating"][i] > losses["none"]["violating"][i]


def test_return_probability_without_a_rule_is_known(parity):
    _, split = parity
    strings = np.tile(split.held_out, (40, 1))
    found = return_probability(one_step(independent_bit_denoiser()), strings, (0.4, 0.6), 2)
    for sigma, probability in zip((0.4, 0.6), found, strict=True):
        one_bit = 0.5 * math.erfc(-1 / (sigma * math.sqrt(2)))
        exact = one_bit**12
        assert abs(probability - exact) < 4 * math.sqrt(exact * (1 - exact) / len(strings))


def test_basins_of_the_three_optima(parity):
    rule, split = parity
    violating = violate(split.held_out, rule, seed=0)
    vertices = {
        name: repeated(strings, 1280)
        for name, strings in (("train", split.train), ("held_out", split.held_out), ("violating", violating))
    }
    of_rule = basins(one_step(rule.denoise_rule), vertices, SIGMAS, rule)
    of_train = basins(one_step(empirical_denoiser(split.train)), vertices, SIGMAS, rule)
    of_none = basins(one_step(independent_bit_denoiser()), vertices, SIGMAS, rule)
    # The rule widens the basins of valid strings, trained on or not, and leaves violating ones none.
    assert of_rule["held_out"]["radius"] > 1.1 * of_none["held_out"]["radius"]
    assert of_rule["train"]["radius"] == pytest.approx(of_rule["held_out"]["radius"], rel=0.03)
    # The signs of posterior means of single bits may break the rule, but seldom do.
    assert max(of_rule["violating"]["probability"]) < 0.1 and of_rule["violating"]["radius"] is None
    # The training set's optimum knows no other strings.
    assert of_train["train"]["radius"] > 1.3 * of_rule["train"]["radius"]
    assert max(of_train["held_out"]["probability"]) < 0.05


def test_capture_tables_of_the_optima(parity):
    rule, split = parity
    violating = violate(split.held_out, rule, seed=0)
    sigmas = (0.3, 0.8)
    by_rule = capture_table(one_step(rule.denoise_rule), violating, split.train, rule, sigmas)
    by_train = capture_table(one_step(empirical_denoiser(split.train)), violating, split.train, rule, sigmas)
    by_none = capture_table(one_step(independent_bit_denoiser()), violating, split.train, rule, sigmas)
    for table in (by_rule, by_train, by_none):
        assert [sum(column) for column in zip(*table.values(), strict=True)] == pytest.approx([1, 1])
    assert by_rule["valid"][0] > 0.7 and max(by_rule["stays"]) < 0.1
    assert min(by_train["train"]) > 0.9
    assert by_none["stays"][0] > 0.95


def test_the_whole_flow_ends_on_vertices_where_one_step_need_not(parity):
    rule, split = parity
    violating = repeated(violate(split.held_out, rule, seed=0), 256)
    by_rule = capture_table(whole_flow(rule.denoise_rule), violating, split.train, rule, (0.5, 0.9))
    # On the way down the rule's optimum decides for a valid string, whatever it started from.
    assert [a + b for a, b in zip(by_rule["valid"], by_rule["train"], strict=True)] == [1, 1]
    by_train = capture_table(whole_flow(empirical_denoiser(split.train)), violating, split.train, rule, (0.5, 0.9))
    assert by_train["train"] == [1, 1]


def test_half_recovery_sigma_is_interpolated_in_log_sigma():
    assert half_recovery_sigma([0.25, 1.0], [0.75, 0.25]) == pytest.approx(0.5)
    assert half_recovery_sigma([0.25, 1.0], [0.4, 0.1]) is None
    assert half_recovery_sigma([0.25, 1.0], [0.9, 0.8]) is None
