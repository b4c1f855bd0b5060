"""Steps in a row whose rewards are all equal."""

import json
import math

from analysis.report.studies.comparison.learning import dead_signals
from trainers.dead_signal import DeadSignal


def test_three_equal_steps_in_a_row_are_one_warning_a_stretch(capsys):
    signal = DeadSignal()
    flagged = []
    for rewards in ([1.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5], [None, 0.5], [math.nan], [None], [0.0, 1.0]):
        signal.step(rewards, [("what it wrote", 0.5)])
        flagged.append(signal.flags())
    assert [flags.get("equal_rewards", 0) for flags in flagged] == [1, 2, 0, 1, 2, 3, 4, 0]
    assert [flags.get("dead_signal", False) for flags in flagged] == [False] * 5 + [True, True, False]
    printed = capsys.readouterr().out
    assert printed.count("warning:") == 1 and "no completion could be scored" in printed
    assert "'what it wrote'" in printed


def test_a_resumed_run_goes_on_counting(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(json.dumps({"step": 1, "equal_rewards": 2}) + "\n")
    signal = DeadSignal()
    signal.resume(metrics)
    signal.step([0.0], [])
    assert signal.flags() == {"equal_rewards": 3, "dead_signal": True}


def test_the_report_says_that_nothing_was_learned():
    results = {"methods": ["es", "grpo"], "training": {"es": {"dead_signal": {"steps": 8, "first": 3, "of": 10}}}}
    [said] = dead_signals(results)
    assert said.startswith("ES learned nothing from its rewards") and "in 10 steps of 10" in said
