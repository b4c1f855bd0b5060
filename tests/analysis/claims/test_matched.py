"""Where two trainings are equally accurate, on curves that are known."""

import pytest

from analysis.claims.equal_accuracy import at_level, non_inferiority
from analysis.claims.matched import (
    Reached,
    chosen_steps,
    columns,
    cost_of,
    first_match,
    flops_per_token,
    read_curve,
    value_at,
)
from eval.storage import append_jsonl, write_json, write_text


def curve(accuracies, per_step=100, total=100, every=1):
    """Evaluations every `every` steps of `per_step` completions each."""
    return [
        Reached(
            step=i * every,
            completions=i * every * per_step,
            tokens=i * every * per_step * 10,
            seconds=float(i * every),
            flops=2.0 * i * every,
            accuracy=accuracy,
            low=accuracy,
            high=accuracy,
            total=total,
        )
        for i, accuracy in enumerate(accuracies)
    ]


def pair_of(first, second, steps=None):
    every = steps or ({point.step for point in first}, {point.step for point in second})
    every = tuple({*of} - {0} for of in every)
    match = first_match((first, second), every)
    return match.found, *(point.step for point in match.pair)


SLOW = curve([0.24, 0.5, 0.65, 0.75, 0.82])
FAST = curve([0.24, 0.6, 0.7, 0.81, 0.86, 0.9])


def test_it_is_the_first_pair_at_the_highest_accuracy_that_both_reach():
    assert pair_of(SLOW, FAST) == (True, 4, 3)
    assert pair_of(FAST, SLOW) == (True, 3, 4)
    # Both settle at once, and noise makes a later pair a little higher: the first is taken.
    assert pair_of(curve([0.2, 0.8, 0.81, 0.8]), curve([0.2, 0.79, 0.8, 0.815])) == (True, 1, 1)


def test_a_difference_of_exactly_two_points_is_equal_and_more_is_not():
    assert pair_of(curve([0.1, 0.82]), curve([0.1, 0.84]))[0]
    assert not pair_of(curve([0.1, 0.82]), curve([0.1, 0.845], total=200))[0]


def test_without_an_equal_pair_the_nearest_is_named_as_such():
    assert pair_of(curve([0.1, 0.3, 0.5]), curve([0.1, 0.4, 0.9])) == (False, 2, 1)
    # Neither has learned: equal to the start is no match.
    assert pair_of(curve([0.24, 0.25]), curve([0.24, 0.24])) == (False, 1, 1)


def test_only_steps_whose_weights_are_there_count():
    assert pair_of(SLOW, FAST, ({1, 2, 3, 4}, {2, 5})) == (False, 3, 2)
    assert first_match((SLOW, FAST), (set(), {5})) is None


def test_the_cost_of_an_accuracy_is_interpolated_where_it_is_first_crossed():
    assert cost_of(SLOW, 0.7) == pytest.approx({"completions": 250, "tokens": 2500, "seconds": 2.5, "flops": 5.0})
    assert cost_of(SLOW, 0.9) is None
    assert cost_of(SLOW, 0.24) == {"completions": 0, "tokens": 0, "seconds": 0.0, "flops": 0.0}
    assert cost_of(curve([0.2, 0.8, 0.4, 0.9]), 0.5)["completions"] == pytest.approx(50)


def test_quantities_are_interpolated_between_the_checkpoints_that_enclose_the_accuracy():
    assert value_at([0.4, 0.8], [1.0, 3.0], 0.7) == pytest.approx(2.5)
    assert value_at([0.4, 0.8], [1.0, 3.0], 0.8) == 3.0
    assert value_at([0.4, 0.8], [1.0, 3.0], 0.3) is None and value_at([0.4, 0.8], [1.0, 3.0], 0.9) is None
    numbers = {"step": [1, 2], "accuracy": [0.4, 0.8], "norm": [1.0, 3.0], "off_forward": [None, 1.0]}
    assert at_level(numbers, 0.7) == {"norm": pytest.approx(2.5), "off_forward": None}


def test_the_chosen_steps_hold_both_ends_and_the_pair_and_are_dense_at_the_beginning():
    steps = range(4, 121, 4)
    chosen = chosen_steps(steps, 6, 20)
    assert len(chosen) == 6 and {4, 20, 120} <= set(chosen)
    assert sum(step <= 40 for step in chosen) >= 4
    assert chosen_steps(steps, 1, 20) == [20] and chosen_steps(steps, 2, 20) == [20, 120]
    assert chosen_steps([5, 10], 6, 10) == [5, 10]


def test_flops_count_what_each_method_computes_for_a_token():
    assert flops_per_token("es", {}) == 2
    assert flops_per_token("grpo", {"num_iterations": 1, "beta": 0.0}) == 8
    assert flops_per_token("grpo", {"num_iterations": 2, "beta": 0.04}) == 16


def test_a_curve_is_read_from_the_run_folder(tmp_path):
    write_text(tmp_path / "config.yaml", "num_iterations: 1\nbeta: 0.0\n")
    write_json(tmp_path / "results.json", {"method": "grpo", "parameters": 1000})
    scored = {"correct": 5, "total": 10, "low": 0.3, "high": 0.7}
    for step in (0, 2):
        append_jsonl(
            tmp_path / "evaluations.jsonl", {"step": step, "completions": 8 * step, "accuracy": 0.5, **scored}
        )
    for step in (1, 2):
        append_jsonl(tmp_path / "metrics.jsonl", {"step": step, "tokens": 50 * step, "seconds": 1.5 * step})
    found = columns(read_curve(tmp_path))
    assert found["step"] == [0, 2] and found["tokens"] == [0, 100] and found["seconds"] == [0.0, 3.0]
    assert found["flops"] == [0.0, 8 * 1000 * 100.0]


def test_matches_or_exceeds_takes_the_whole_interval_above_the_margin_and_a_base_that_fails():
    right, wrong = [1.0] * 90 + [0.0] * 10, [0.0] * 90 + [1.0] * 10
    base = [1.0] * 20 + [0.0] * 80
    assert non_inferiority(right, right, base)["verdict"] == "matches or exceeds"
    assert non_inferiority(wrong, right, base)["verdict"] == "falls short"
    few = non_inferiority([1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0], [0.0] * 4)
    assert few["verdict"] == "cannot tell" and few["difference"] == 0.0 and few["problems"] == 4
    blind = non_inferiority(right, right, right)
    assert blind["verdict"] == "cannot tell", "a base that passes leaves the test without power"
    assert blind["control"]["difference"] == 0.0
    unscored = non_inferiority([None, *right], [1.0, *right], [0.0, *base])
    assert unscored["problems"] == 100
