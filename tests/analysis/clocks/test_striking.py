import math

import numpy as np
import pytest

from analysis.clocks.resampled import bootstrap, clock_interval, median_clock
from analysis.clocks.striking import (
    CLOCKS,
    Crossing,
    Window,
    clocks_of,
    crossing,
    innovation_window,
    innovation_yield,
    loss_minimum,
)


def row(step, valid, copies, control=0.0, **others):
    return {
        "step": step,
        "seconds": step / 100,
        "samples": 500,
        "valid": valid,
        "group_valid": valid,
        "copies": copies,
        "control": control,
        "novel_valid": (valid - copies) / (1 - copies) if copies < 1 else None,
        "unique": 1.0,
        "gap_ratio_copies": None,
        "loss_train": 0.5,
        "loss_held_out": 0.5,
    } | others


LEARNS_THEN_COPIES = [
    row(10, 0.1, 0.0, loss_held_out=0.52),
    row(100, 0.5, 0.0, loss_held_out=0.51),
    row(1000, 0.95, 0.02, loss_held_out=0.53),
    row(10000, 0.96, 0.18, 0.02, loss_held_out=0.6),
]
COPIES_ONLY = [row(10, 0.1, 0.0), row(100, 0.5, 0.45), row(1000, 0.95, 0.94), row(10000, 1.0, 1.0)]


def test_crossings_are_interpolated_in_log_step():
    found = crossing([10, 100, 1000], [0.0, 0.4, 0.8], 0.6)
    assert found.step == pytest.approx(10**2.5) and found.after == 100
    assert crossing([10, 100], [0.7, 0.9], 0.6) == Crossing(10.0, 0)
    assert crossing([0, 1], [0.0, 1.0], 0.5) == Crossing(1.0, 0)
    assert crossing([10, 100], [None, 0.9], 0.6) == Crossing(100.0, 10)
    with pytest.raises(ValueError, match="without evaluations"):
        crossing([], [], 0.5)


def test_sustained_crossings_and_censoring():
    steps = [1, 10, 100, 1000]
    assert crossing(steps, [0, 1, 0, 1], 0.5, sustained=2) == Crossing(None, 100)
    assert crossing(steps, [0, 0, 0, 0], 0.5) == Crossing(None, 1000)
    assert crossing(steps, [0, 0, 1, 1], 0.5, sustained=2).step == pytest.approx(10**1.5)
    assert crossing(steps, [0, 1, None, 0], 0.5, sustained=2) == Crossing(None, 1000)
    assert crossing([7], [1.0], 0.5, sustained=2) == Crossing(None, 0)
    assert not Crossing(None, 100).observed and Crossing(None, 100).time == 100


def test_the_clocks_of_a_run_that_learns_and_then_copies():
    found = clocks_of(LEARNS_THEN_COPIES)
    rule, novel, memory = (found[name] for name in ("tau_rule", "tau_rule_novel", "tau_mem"))
    assert rule.step == pytest.approx(10 ** (2 + 0.4 / 0.45))
    novel_valid = 0.93 / 0.98
    assert novel.step == pytest.approx(10 ** (2 + 0.4 / (novel_valid - 0.5)))
    assert memory.step == pytest.approx(10 ** (3 + 0.08 / 0.14))
    assert set(found) == set(CLOCKS)
    assert found["tau_mem_gap_ratio"] is None
    assert found["tau_mem_20"] == Crossing(None, 10000)
    assert found["tau_mem_loss_gap"].step == pytest.approx(10 ** (3 + 0.02 / 0.07))
    assert loss_minimum(LEARNS_THEN_COPIES) == 100
    window = innovation_window(novel, memory)
    assert window.state == "open" and window.width == pytest.approx(math.log10(memory.step / novel.step))


def test_shares_that_meet_a_limit_exactly_meet_it():
    # 15 of 100 less 5 of 100 is 10 %, and 72 of 80 are 90 %; in floats both are a rounding error less.
    rows = [row(10, 0.1, 0.0, samples=100), row(100, 0.2, 0.15, 0.05, samples=100)]
    assert rows[1]["copies"] - rows[1]["control"] < 0.1
    assert clocks_of(rows)["tau_mem"] == Crossing(pytest.approx(100), 10)
    assert clocks_of([rows[0], rows[1] | {"copies": 0.14}])["tau_mem"] == Crossing(None, 100)
    learned = [row(step, 0.92, 0.2, samples=100) for step in (10, 100)]
    assert learned[0]["novel_valid"] < 0.9
    assert clocks_of(learned)["tau_rule_novel"] == Crossing(10.0, 0)
    assert not clocks_of([row(step, 0.91, 0.2, samples=100) for step in (10, 100)])["tau_rule_novel"].observed


def test_copying_alone_is_no_rule_learning():
    struck = clocks_of(COPIES_ONLY)
    assert struck["tau_rule"].observed
    assert struck["tau_rule_novel"] == Crossing(None, 10000)
    assert innovation_window(struck["tau_rule_novel"], struck["tau_mem"]).state == "vanished"
    assert innovation_yield(COPIES_ONLY)["per_sample"] == pytest.approx(0.1)


def test_windows_that_are_known_only_in_part():
    struck, later, unseen = Crossing(100.0, 50), Crossing(1000.0, 500), Crossing(None, 1000)
    assert innovation_window(struck, later) == Window("open", width=1.0)
    assert innovation_window(later, struck) == Window("vanished", width=-1.0)
    assert innovation_window(struck, unseen) == Window("open", at_least=1.0)
    assert innovation_window(unseen, struck) == Window("vanished", at_most=-1.0)
    assert innovation_window(Crossing(None, 10), struck) == Window("censored", at_most=1.0)
    assert innovation_window(unseen, unseen) == Window("censored")


def test_yield_counts_distinct_new_valid_strings():
    rows = [row(1, 0.5, 0.0, unique=0.5), row(2, 0.9, 0.5, unique=0.9), row(3, 1.0, 1.0, unique=0.1)]
    found = innovation_yield(rows)
    assert found["value"] == pytest.approx(0.4 / 0.5 * 0.9) and found["step"] == 2
    assert found["per_sample"] == pytest.approx(0.4 * 0.9) and found["per_sample_step"] == 2


def test_bootstrap_has_the_spread_of_new_samples():
    # Validity of 0.6 at the first and of 0.9 at the second evaluation: a threshold of 0.5 is always passed at once.
    rows = [row(10, 0.4, 0.0), row(100, 0.6, 0.3, 0.1), row(1000, 0.6, 0.3, 0.1)]
    steps = np.log([c.step for c in bootstrap(rows, ["tau_rule_half"], 4000)["tau_rule_half"]])
    # log step = log 10 + log 10 * (0.5 - a) / (b - a) with a, b binomial shares of 500 samples.
    draws = np.random.default_rng(1).binomial(500, [[0.4], [0.6]], size=(2, 40000)) / 500
    expected = np.log(10) * (1 + (0.5 - draws[0]) / (draws[1] - draws[0]))
    assert steps.mean() == pytest.approx(expected.mean(), abs=0.02)
    assert steps.std() == pytest.approx(expected.std(), rel=0.08)


def test_bootstrap_draws_copies_control_and_validity_together():
    # Copies less control is 0.2: twice in a row at 0.1 and never at 0.5.
    rows = [row(10, 0.0, 0.0), row(100, 1.0, 0.3, 0.1), row(1000, 1.0, 1.0)]
    found = bootstrap(rows, ["tau_mem", "tau_rule_novel"], 300)
    variance = (0.3 + 0.1 - 0.2**2) / 500
    shares = [0.1 / (math.log10(c.step) - 1) for c in found["tau_mem"]]
    assert np.std(shares) == pytest.approx(math.sqrt(variance), rel=0.15)
    # Where all samples are copies nothing is known of new ones.
    assert not any(c.observed for c in found["tau_rule_novel"])


def test_intervals_hold_the_clock_and_know_what_is_censored():
    found = bootstrap(LEARNS_THEN_COPIES, ["tau_rule_novel", "tau_mem", "tau_mem_20"], 200)
    for name in ("tau_rule_novel", "tau_mem"):
        low, high = clock_interval(found[name])
        assert low < clocks_of(LEARNS_THEN_COPIES)[name].step < high < 10000
    # copies - control is 0.16 with standard error 0.018: 0.2 is reached in some replicates only.
    assert clock_interval(found["tau_mem_20"])[1] is None


def median_of(runs, name):
    return median_clock(
        [clocks_of(rows)[name] for rows in runs], [bootstrap(rows, [name], 200)[name] for rows in runs]
    )


def test_medians_over_seeds():
    found = median_of([LEARNS_THEN_COPIES, LEARNS_THEN_COPIES, COPIES_ONLY], "tau_rule_novel")
    assert found["median"] == pytest.approx(clocks_of(LEARNS_THEN_COPIES)["tau_rule_novel"].step)
    assert (found["observed"], found["runs"], found["at_least"]) == (2, 3, None)
    assert found["low"] < found["median"] and found["high"] is None
    censored = median_of([COPIES_ONLY, COPIES_ONLY, LEARNS_THEN_COPIES], "tau_rule_novel")
    assert censored["median"] is None and censored["at_least"] == 10000
