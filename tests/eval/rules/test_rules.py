"""Every rule against plain enumeration of all strings, where that is possible."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from eval.errors import UserError
from eval.rules import RULES, is_member, make_rule
from eval.rules.base import all_strings
from eval.rules.encoding import decode, encode
from eval.rules.oracles import position_entropy


# Small enough to go over every string of the vocabulary: at most 2^16.
SMALL = [
    ("parity", {"length": 12, "group": 3}),
    ("parity", {"length": 8, "group": 2}),
    ("parity", {"length": 12, "group": 4}),
    ("parity_grid", {"side": 4, "group": 4}),
    ("threshold", {"length": 9, "ones": 5}),
    ("threshold", {"length": 6, "ones": 6}),
    ("fixed_weight", {"length": 10, "ones": 5}),
    ("fixed_weight", {"length": 9, "ones": 3}),
    ("palindrome", {"length": 9}),
    ("palindrome", {"length": 8}),
    ("xor_of_halves", {"length": 12}),
    ("no_adjacent_ones", {"length": 11}),
    ("permutation_matrix", {"side": 4}),
    ("permutation_matrix", {"side": 2}),
    ("latin_square", {"side": 3}),
    ("queens", {"side": 4}),
    ("spatial_relation", {"side": 2}),
]
# Too many strings to go over all of them; how many are valid is known.
COUNTS = [
    ("latin_square", {"side": 4}, 576),
    ("latin_square", {"side": 5}, 161280),
    ("sudoku", {}, 288),
    ("permutation_matrix", {"side": 6}, 720),
    ("permutation_matrix", {"side": 8}, 40320),
    ("queens", {"side": 8}, 92),
    ("queens", {"side": 10}, 724),
    ("raven", {"symbols": 4}, None),
    ("spatial_relation", {"side": 4}, 384),
    ("parity", {"length": 24, "group": 3}, 2**16),
]
LARGE = [
    ("parity", {"length": 60, "group": 3}),
    ("parity_grid", {"side": 6, "group": 3}),
    ("threshold", {"length": 40, "ones": 21}),
    ("fixed_weight", {"length": 40, "ones": 20}),
    ("palindrome", {"length": 50}),
    ("xor_of_halves", {"length": 36}),
    ("no_adjacent_ones", {"length": 40}),
    ("permutation_matrix", {"side": 10}),
]


def name_of(case):
    return str(case) if isinstance(case, str) else "-".join(map(str, case.values())) if isinstance(case, dict) else ""


def as_set(strings):
    return {tuple(row) for row in strings.tolist()}


@pytest.mark.parametrize(("name", "options"), SMALL, ids=name_of)
def test_enumeration_count_and_validity_agree_with_all_strings(name, options):
    rule = make_rule(name, **options)
    every = all_strings(rule.vocabulary, rule.positions)
    valid = as_set(every[rule.valid(every)])
    assert len(valid) == rule.count == len(rule.valid_strings)
    assert valid == as_set(rule.valid_strings)
    assert rule.log2_count == math.log2(len(valid))
    assert rule.valid_strings.dtype == np.int8


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options", "count"), COUNTS, ids=name_of)
def test_known_counts(name, options, count):
    rule = make_rule(name, **options)
    strings = rule.valid_strings
    assert len(np.unique(strings, axis=0)) == len(strings) == rule.count
    assert count is None or rule.count == count
    assert rule.valid(strings).all()


@pytest.mark.parametrize(("name", "options"), SMALL + [("raven", {"symbols": 4}), ("sudoku", {})], ids=name_of)
def test_complexity_is_the_smallest_order_that_is_not_uniform(name, options):
    rule = make_rule(name, **options)
    strings = rule.valid_strings.astype(int)
    for order in range(1, rule.complexity + 1):
        uniform = True
        for places in combinations(range(rule.positions), order):
            codes = strings[:, places] @ rule.vocabulary ** np.arange(order)
            seen = np.bincount(codes, minlength=rule.vocabulary**order)
            uniform &= bool((seen * rule.vocabulary**order == rule.count).all())
        assert uniform == (order < rule.complexity), order


def test_validity_by_hand():
    def parts(name, string, **options):
        rule = make_rule(name, **options)
        strings = np.array([string], dtype=np.int8)
        return rule.constraints(strings)[0].tolist(), bool(rule.valid(strings)[0])

    assert parts("parity", [1, 1, 0, 1, 0, 0], length=6, group=3) == ([True, False], False)
    assert parts("parity_grid", [1, 1, 0, 0], side=2, group=2) == ([True, True], True)
    assert parts("threshold", [1, 0, 1], length=3, ones=2) == ([True], True)
    assert parts("fixed_weight", [1, 1, 1], length=3, ones=2) == ([False], False)
    assert parts("palindrome", [1, 0, 0, 0, 0], length=5) == ([False, True], False)
    assert parts("xor_of_halves", [1, 0, 1, 1, 0, 0], length=6) == ([True, False], False)
    assert parts("no_adjacent_ones", [0, 1, 1, 0], length=4) == ([True, False, True], False)
    assert parts("permutation_matrix", [1, 0, 1, 0], side=2) == ([True, True, False, False], False)
    assert parts("latin_square", [0, 1, 0, 1], side=2) == ([True, True, False, False], False)
    # A Latin square whose boxes repeat symbols.
    cyclic = [(row + column) % 4 for row in range(4) for column in range(4)]
    assert parts("sudoku", cyclic) == ([True] * 8 + [False] * 4, False)
    queens, valid = parts("queens", np.eye(4, dtype=np.int8).ravel(), side=4)
    assert queens[:8] == [True] * 8 and queens.count(False) == 1 and not valid
    # Every row obeys a relation, but no relation holds in all rows.
    assert parts("raven", [2, 2, 2, 1, 2, 3, 1, 1, 1], symbols=4) == ([True, True, True], False)
    assert parts("raven", [1, 1, 2, 0, 3, 3, 2, 1, 3], symbols=4) == ([True, True, True], True)
    # "Left of": the first object in column 0, the second in column 1.
    assert parts("spatial_relation", [3, 1, 0, 0, 2], side=2) == ([True] * 5, True)
    assert parts("spatial_relation", [4, 1, 0, 0, 2], side=2) == ([True] * 4 + [False], False)
    assert parts("spatial_relation", [5, 1, 0, 0, 2], side=2) == ([True] * 5, True)


@pytest.mark.parametrize(("name", "options"), SMALL, ids=name_of)
def test_draws_are_uniform(name, options):
    rule = make_rule(name, **options)
    draws = 40 * rule.count
    strings = rule.draw(draws, np.random.default_rng(0))
    assert strings.dtype == np.int8 and rule.valid(strings).all()
    _, seen = np.unique(strings, axis=0, return_counts=True)
    assert len(seen) == rule.count, "40 draws per string should have met every one"
    # Chi-square with count - 1 degrees of freedom: within 5 standard deviations of its mean.
    chi_square = float(((seen - 40) ** 2 / 40).sum())
    assert abs(chi_square - (rule.count - 1)) <= 5 * math.sqrt(2 * (rule.count - 1)) + 1e-9


@pytest.mark.parametrize(("name", "options"), LARGE, ids=name_of)
def test_rules_too_large_to_list_draw_valid_distinct_strings(name, options):
    rule = make_rule(name, **options)
    split = rule.split(train=300, held_out=100, seed=0)
    strings = np.concatenate([split.train, split.control, split.held_out])
    assert strings.shape == (700, rule.positions) and len(as_set(strings)) == 700
    assert rule.valid(strings).all()
    with pytest.raises(UserError, match="too many to list"):
        _ = rule.valid_strings


@pytest.mark.parametrize(("length", "train"), [(24, 512), (36, 5000)])
def test_the_three_sets_are_disjoint_nested_and_repeatable(length, train):
    rule = make_rule("parity", length=length, group=3)
    small, large = rule.split(train // 2, 100, seed=3), rule.split(train, 100, seed=3)
    assert len(as_set(np.concatenate([large.train, large.control, large.held_out]))) == 2 * train + 100
    assert np.array_equal(small.train, large.train[: train // 2])
    assert np.array_equal(small.control, large.control[: train // 2])
    assert np.array_equal(small.held_out, large.held_out)
    assert np.array_equal(large.train, rule.split(train, 100, seed=3).train)
    assert not np.array_equal(large.train, rule.split(train, 100, seed=4).train)


def test_all_valid_strings_can_be_used():
    rule = make_rule("sudoku")
    split = rule.split(train=100, held_out=88, seed=0)
    assert as_set(np.concatenate([split.train, split.control, split.held_out])) == as_set(rule.valid_strings)


def test_membership():
    rows = np.array([[0, 1], [1, 1], [0, 1]], dtype=np.int64)
    assert is_member(rows, np.array([[0, 1], [0, 0]], dtype=np.int8)).tolist() == [True, False, True]
    assert is_member(rows, np.empty((0, 2), dtype=np.int8)).tolist() == [False] * 3


@pytest.mark.parametrize(("name", "options"), SMALL, ids=name_of)
def test_encoding_is_undone_and_all_code_words_have_one_norm(name, options):
    rule = make_rule(name, **options)
    vectors = encode(rule.valid_strings, rule.vocabulary)
    assert vectors.shape == (rule.count, rule.dimension) and vectors.dtype == torch.float32
    assert set(vectors.unique().tolist()) <= {-1.0, 1.0}
    assert np.array_equal(decode(0.3 * vectors, rule.vocabulary), rule.valid_strings)


def test_position_entropy_of_parity_is_that_of_enumeration():
    rule = make_rule("parity", length=12, group=4)
    np.testing.assert_allclose(rule.position_entropy(), position_entropy(rule.valid_strings), atol=1e-12)
    np.testing.assert_allclose(rule.position_entropy()[:4], [math.log(2)] * 3 + [0])
    assert rule.position_entropy().sum() == pytest.approx(math.log(rule.count))
    assert make_rule("queens", side=6).position_entropy().sum() == pytest.approx(math.log(4))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("party", {"length": 4}, "rule is 'party', not one of .*; did you mean parity"),
        ("parity", {"length": 16, "group": 3}, "group is 3, which does not divide the 16 bits"),
        ("parity", {"length": 16, "group": 0}, "group is 0"),
        ("parity_grid", {"side": 5, "group": 4}, "does not divide the 25 bits"),
        ("parity", {"length": 16}, "rule parity needs group; it takes length, group"),
        ("parity", {"length": 16, "group": 4, "side": 4}, "rule parity takes no side; it takes length, group"),
        ("sudoku", {"side": 4}, "rule sudoku takes no side; it takes no options"),
        ("threshold", {"length": 8, "ones": 9}, "ones is 9"),
        ("fixed_weight", {"length": 8, "ones": 8}, "ones is 8"),
        ("xor_of_halves", {"length": 16}, "multiple of 3"),
        ("latin_square", {"side": 6}, "side is 6; give one of 2, 3, 4, 5"),
        ("queens", {"side": 3}, "side is 3"),
        ("raven", {"symbols": 2}, "symbols is 2"),
    ],
)
def test_mistakes_are_one_line(name, options, message):
    with pytest.raises(UserError, match=message) as error:
        make_rule(name, **options)
    assert "\n" not in str(error.value)


def test_more_strings_than_there_are():
    with pytest.raises(UserError, match=r"1200 distinct strings .* parity\(length=8, group=2\) has only 16 valid"):
        make_rule("parity", length=8, group=2).split(train=500, held_out=200, seed=0)


def test_every_rule_is_tested():
    assert {case[0] for case in SMALL + COUNTS} == set(RULES)
