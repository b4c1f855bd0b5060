import math

import numpy as np
import pytest

from analysis.clocks.claims import claims_section
from analysis.clocks.measure import bootstraps
from analysis.clocks.phases import change_of_order, equally_large, phases_section, pooled_section
from analysis.clocks.runs import read_runs


SLOPES = {"copies": 1.0, "rule": 1.2}
JUMP = 5.0
BORDER = 200
# The clocks of `write_run` strike at fixed multiples of its options: samples copied from 0.6 to 0.1, novel from 0.9.
SPREAD = 0.03


def memory_at(size, noise):
    """log-log linear in N in both phases, with a jump between."""
    below = size < BORDER
    start = 200 * (1 if below else JUMP)
    return start * (size / 64) ** SLOPES["copies" if below else "rule"] * 10 ** (SPREAD * noise)


@pytest.fixture(scope="module")
def planted(tmp_path_factory, write_run):
    """Two rules of 2^18 strings with one law of copying; the largest size is censored in one of its runs."""
    folder, draws = tmp_path_factory.mktemp("planted"), np.random.default_rng(5)
    for length, group in ((27, 3), (24, 4)):
        for size in (32, 64, 128, 256, 512, 1024):
            for seed in (0, 1):
                memory = memory_at(size, draws.normal())
                last = 20000 if size == 1024 and seed else 100000
                write_run(
                    folder / f"g{group}-n{size}-s{seed}",
                    "mlp",
                    group,
                    size,
                    seed,
                    rule=1500,
                    memory=memory,
                    last=last,
                    length=length,
                    **({"stop": "rule", "steps": 100000} if last == 20000 else {}),
                )
    runs = read_runs(folder)
    return runs, bootstraps(runs, 60)


def test_slopes_within_phases_and_the_break_are_recovered(planted):
    runs, replicates = planted
    lines = phases_section(runs, replicates)
    assert [(line["rule"], line["unknown"]) for line in lines] == [
        ("parity(length=27, group=3)", 0),
        ("parity(length=24, group=4)", 0),
    ]
    for line in lines:
        assert line["copies_first"]["sizes"] == [32, 64, 128] and line["rule_first"]["sizes"] == [256, 512, 1024]
        between = line["break"]
        assert (between["low"], between["high"], between["misplaced"]) == (128, 256, 0)
        assert between["bootstrap_low"] <= BORDER <= between["bootstrap_high"]
        assert between["N"] == pytest.approx(math.sqrt(128 * 256))
        jump = line["jump"]
        expected = JUMP * (between["N"] / 64) ** (SLOPES["rule"] - SLOPES["copies"])
        assert jump["factor"] == pytest.approx(expected, rel=0.35)


def test_rules_together_share_a_slope_and_keep_their_starts(planted):
    runs, replicates = planted
    (pooled,) = pooled_section(runs, replicates)
    assert pooled["log2_count"] == 18 and len(pooled["rules"]) == 2
    for phase, slope in (("copies_first", SLOPES["copies"]), ("rule_first", SLOPES["rule"])):
        fit = pooled[phase]
        found = fit["slopes"]["log10 N"]
        assert found["bootstrap_low"] <= found["slope"] <= found["bootstrap_high"]
        assert found["low"] <= slope <= found["high"] and found["slope"] == pytest.approx(slope, abs=0.15)
        starts = list(fit["intercepts"].values())
        assert starts[0] == pytest.approx(starts[1], abs=0.15)
    # A run of 1,024 strings that ended before it copied counts as later, in each rule.
    assert pooled["rule_first"]["censored"] == 2 and pooled["rule_first"]["observed"] == 10


def test_one_line_through_both_phases_would_be_called_steeper_than_either(planted):
    runs, replicates = planted
    verdicts = {
        (entry["claim"], entry["model"]): entry
        for entry in claims_section(runs, phases_section(runs, replicates), pooled_section(runs, replicates), {})
    }
    for name, slope in (("C4a", SLOPES["copies"]), ("C4b", SLOPES["rule"])):
        assert verdicts[name, "mlp"]["slope"] == pytest.approx(slope, abs=0.15)
    assert verdicts["C4a", "mlp"]["verdict"] == "seen"
    assert verdicts["C3a", "mlp"]["verdict"] == "seen" and verdicts["C3a", "mlp"]["factor"] < 1.5
    assert "copies first" in verdicts["C6", "all"]["evidence"]


def test_what_ended_a_run_before_it_copied_is_named(planted):
    runs, _ = planted
    named = {run.name: run.memory_censored_by for run in runs}
    assert named["g3-n1024-s1"] == "stop: rule" and named["g3-n512-s1"] is None


def test_the_border_encloses_all_that_misplace_the_fewest_runs():
    sizes = [1, 2, 2, 4, 4, 8]
    assert change_of_order(sizes, ["copies", "copies", "copies", "rule", "rule", "rule"]) == (2, 4, 0)
    assert change_of_order(sizes, ["copies", "copies", "rule", "copies", "rule", "rule"]) == (1, 8, 2)
    assert change_of_order(sizes, ["copies", "copies", "copies", "copies", "rule", "rule"]) == (2, 8, 1)
    assert change_of_order(sizes, ["copies"] * 6) is None
    assert change_of_order(sizes, ["copies"] + ["unknown"] * 4 + ["rule"]) == (1, 8, 0)


def test_equally_large_rules(planted):
    runs, _ = planted
    assert len(equally_large(runs)) == 1
