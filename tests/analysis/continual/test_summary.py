"""The summary of a sequential run on planted accuracies: what was planted comes out exactly."""

import copy
import json
import math

import numpy as np
import pytest

from analysis.continual.drift import drift_and_forgetting, polynomial_fit, rank_correlation, stage_points
from analysis.continual.metrics import METRICS, continual_metrics
from analysis.continual.summary import arm_pairs, budget, main_arms, summarise
from tests.analysis.continual.planted_sequence import (
    GAINS,
    ITEMS,
    LOSSES,
    TASKS,
    full_run,
    planted_matrix,
    planted_results,
    planted_stage,
    scored,
)


FEW = 200


@pytest.fixture(scope="module")
def summary():
    return summarise(full_run(), resamples=FEW)


def one_chain(matrix, method="es", columns=None, kl=0.1):
    """A run of one arm and one seed."""
    tasks = TASKS[: len(matrix) - 1]
    return planted_results(
        {method: (method, [matrix])}, tasks, columns or tasks, {method: [kl] * len(tasks)}, {method: 2.0}
    )


def test_metrics_of_a_matrix_worked_out_by_hand():
    """Countdown 0.2 -> 0.8 -> 0.5 -> 0.6, arithmetic 0.3 -> 0.2 -> 0.9 -> 0.7, four_choice 0.4 -> 0.4 -> 0.1 -> 1."""
    matrix = [[0.2, 0.3, 0.4], [0.8, 0.2, 0.4], [0.5, 0.9, 0.1], [0.6, 0.7, 1.0]]
    found = summarise(one_chain(matrix), resamples=FEW)
    assert found["matrix"]["es"]["value"] == [pytest.approx(row) for row in matrix]
    values = {name: found["metrics"]["es"][name]["value"] for name in METRICS}
    assert values == {
        "average_accuracy": pytest.approx((0.6 + 0.7 + 1.0) / 3),
        "learning_accuracy": pytest.approx((0.8 + 0.9 + 1.0) / 3),
        "backward_transfer": pytest.approx((-0.2 - 0.2) / 2),
        "forward_transfer": pytest.approx((-0.1 - 0.3) / 2),
        "forgetting": pytest.approx((0.2 + 0.2) / 2),
    }
    by_task = found["forgetting"]["es"]
    assert {task: entry["value"] for task, entry in by_task.items()} == {
        "countdown": pytest.approx(0.2),
        "arithmetic": pytest.approx(0.2),
    }
    points = found["drift"]["points"]
    assert [point["step"]["loss"] for point in points] == [
        pytest.approx((0.1 + 0.0) / 2),
        pytest.approx((0.3 + 0.3) / 2),
        pytest.approx((-0.1 + 0.2) / 2),
    ]
    assert [point["step"]["gain"] for point in points] == [pytest.approx(x) for x in (0.6, 0.7, 0.9)]
    # Against the base: columns that no stage was trained on so far; after the last task none is left.
    assert [point["base"]["loss"] for point in points] == [pytest.approx((0.1 + 0.0) / 2), pytest.approx(0.3), None]
    assert [point["base"]["gain"] for point in points] == [pytest.approx(x) for x in (0.6, 0.6, 0.6)]


def test_planted_forgetting_comes_out(summary):
    """The first task loses the losses of stages 2 to 4, the second those of 3 and 4, the third that of 4."""
    for arm, losses in LOSSES.items():
        lost = [sum(losses[1:]), sum(losses[2:]), losses[3]]
        assert [summary["forgetting"][arm][task]["value"] for task in TASKS[:3]] == pytest.approx(lost)
        assert list(summary["forgetting"][arm]) == TASKS[:3]
        metrics = summary["metrics"][arm]
        assert metrics["forgetting"]["value"] == pytest.approx(sum(lost) / 3)
        assert metrics["backward_transfer"]["value"] == pytest.approx(-sum(lost) / 3)
        before = [0.25, 0.31, 0.29, 0.51]
        assert metrics["learning_accuracy"]["value"] == pytest.approx(
            np.mean([start + GAINS[arm] - sum(losses[:k]) for k, start in enumerate(before)])
        )
        for name, entry in metrics.items():
            assert entry["low"] <= entry["value"] + 1e-9 and entry["value"] - 1e-9 <= entry["high"]
            assert list(summary["seeds"][arm]) == ["0", "1", "2"]
            mean = np.mean([chain[name] for chain in summary["seeds"][arm].values()])
            assert mean == pytest.approx(entry["value"])


def test_what_was_never_lost_has_no_width(summary):
    """GRPO with KL loses nothing on any item, so that no draw of items or seeds changes its forgetting."""
    assert summary["metrics"]["grpo-kl"]["forgetting"] == pytest.approx({"value": 0, "low": 0, "high": 0}, abs=1e-12)
    for entry in summary["forgetting"]["grpo-kl"].values():
        assert entry == pytest.approx({"value": 0, "low": 0, "high": 0}, abs=1e-12)


def test_paired_differences(summary):
    assert list(summary["pairs"]) == ["es|grpo", "es|es-anchored", "grpo|grpo-kl"]
    assert summary["main"] == ["es", "grpo"]
    for pair, found in summary["pairs"].items():
        one, other = pair.split("|")
        for name in METRICS:
            values = [summary["metrics"][arm][name]["value"] for arm in (one, other)]
            assert found["metrics"][name]["value"] == pytest.approx(values[1] - values[0], abs=1e-12)
        for j, column in enumerate([*TASKS, "gsm8k"]):
            ends = [summary["matrix"][arm]["value"][-1][j] for arm in (one, other)]
            assert found["final"][column]["value"] == pytest.approx(ends[1] - ends[0])
    forgetting = summary["pairs"]["es|grpo"]["metrics"]["forgetting"]
    assert forgetting["value"] == pytest.approx(0.07 / 3 - 0.39 / 3)
    assert forgetting["high"] < 0


def test_two_chains_of_one_seed_each_are_tested_item_by_item(summary):
    ends = [[0.2, 0.3], [0.6, 0.3], [0.5, 0.7]], [[0.2, 0.3], [0.6, 0.3], [0.4, 0.7]]
    arms = {arm: (arm, [matrix]) for arm, matrix in zip(("es", "grpo"), ends, strict=True)}
    kl, norm = dict.fromkeys(arms, [0.1, 0.1]), dict.fromkeys(arms, 2.0)
    final = summarise(planted_results(arms, TASKS[:2], TASKS[:2], kl, norm), resamples=FEW)["pairs"]["es|grpo"][
        "final"
    ]
    # The first 50 items are right for ES, the first 40 for GRPO: ten coins that all fell alike.
    assert final[TASKS[0]]["mcnemar"] == {"only_first": 10, "only_second": 0, "p_value": pytest.approx(2 / 2**10)}
    assert final[TASKS[1]]["mcnemar"] == {"only_first": 0, "only_second": 0, "p_value": 1.0}
    assert summary["pairs"]["es|grpo"]["final"][TASKS[0]]["mcnemar"] is None


def test_pairing_removes_what_items_have_in_common():
    """Two arms that forget the same items but for a few: their difference is narrower than either of them."""
    first = planted_matrix([0.2, 0.2], 0.6, [0.1, 0.4])
    second = planted_matrix([0.2, 0.2], 0.6, [0.1, 0.3])
    results = planted_results(
        {"es": ("es", [first] * 3), "grpo": ("grpo", [second] * 3)},
        TASKS[:2],
        TASKS[:2],
        {"es": [0.1, 0.4], "grpo": [0.1, 0.3]},
        {"es": 2.0, "grpo": 1.0},
    )
    found = summarise(results)
    width = {
        arm: found["metrics"][arm]["forgetting"]["high"] - found["metrics"][arm]["forgetting"]["low"]
        for arm in ("es", "grpo")
    }
    difference = found["pairs"]["es|grpo"]["metrics"]["forgetting"]
    # 10 of 100 items differ: the normal approximation is 2 * 1.96 * sqrt(0.1 * 0.9 / 100).
    assert difference["high"] - difference["low"] == pytest.approx(2 * 1.96 * 0.03, rel=0.12)
    assert width["es"] == pytest.approx(2 * 1.96 * math.sqrt(0.4 * 0.6 / ITEMS), rel=0.12)
    assert difference["high"] - difference["low"] < min(width.values())


def test_forward_kl_that_ranks_the_losses_is_found(summary):
    """The planted divergence is the loss + 0.001, so that it ranks perfectly and its fit is a straight line."""
    found = summary["drift"]["step"]["all"]
    assert found["forward"]["correlation"] == pytest.approx({"value": 1.0, "low": 1.0, "high": 1.0})
    assert found["forward"]["fit"]["coefficients"] == pytest.approx([-0.001, 1.0, 0.0], abs=1e-9)
    assert found["forward"]["fit"]["r_squared"] == pytest.approx(1.0)
    assert (found["forward"]["points"], found["forward"]["chains"]) == (48, 12)
    assert found["forward"]["forward_minus"] is None
    assert found["reverse"]["forward_minus"] == pytest.approx({"value": 0, "low": 0, "high": 0}, abs=1e-12)
    norm = found["norm"]
    assert 0 < norm["correlation"]["value"] < 0.9
    assert norm["forward_minus"]["value"] == pytest.approx(1 - norm["correlation"]["value"])
    assert norm["forward_minus"]["low"] > 0
    assert list(summary["drift"]["step"]) == ["all", "es", "grpo"]
    assert summary["drift"]["step"]["es"]["forward"]["chains"] == 6
    # After the last task one further column is left, so that all 48 points have a loss against the base.
    assert summary["drift"]["base"]["all"]["forward"]["points"] == 48


def test_stages_of_a_chain_are_drawn_together():
    """Points that differ between chains alone: the interval is that of the chains, however many stages they have."""

    def points(stages):
        rng = np.random.default_rng(3)
        return [
            {"arm": "es", "method": "es", "seed": str(seed), "stage": k, "task": "t"}
            | {
                reference: {"forward": x, "reverse": x, "norm": x, "gain": x, "loss": y}
                for reference in ("step", "base")
            }
            for seed, (x, y) in enumerate(rng.normal(size=(8, 2)))
            for k in range(stages)
        ]

    once, often = (drift_and_forgetting(points(stages), resamples=FEW)["step"]["all"]["norm"] for stages in (1, 9))
    assert often["correlation"] == pytest.approx(once["correlation"])
    assert (once["points"], often["points"], often["chains"]) == (8, 72, 8)


def test_too_few_chains_have_no_interval():
    matrix = planted_matrix([0.3] * 4, 0.4, [0.01, 0.02, 0.03, 0.04])
    found = summarise(one_chain(matrix), resamples=FEW)["drift"]["step"]
    assert list(found) == ["all"]
    # All stages have the same divergence: no ranks, and no fit through one place.
    assert found["all"]["forward"]["correlation"] == {"value": None, "low": None, "high": None}
    assert found["all"]["forward"]["fit"] is None
    gain = found["all"]["gain"]["correlation"]
    assert gain["low"] is None and gain["high"] is None


def test_unmeasured_divergences_leave_the_norms():
    results = full_run()
    for arm in results["arms"].values():
        for chain in arm["seeds"].values():
            for stage in chain["stages"]:
                stage["kl"] = stage["kl_step"] = None
    found = summarise(results, resamples=FEW)["drift"]["step"]["all"]
    assert found["forward"]["points"] == found["forward"]["chains"] == 0
    assert found["forward"]["correlation"]["value"] is None
    assert found["norm"]["points"] == 48 and found["norm"]["correlation"]["low"] is not None
    assert found["norm"]["forward_minus"] == {"value": None, "low": None, "high": None}


def test_unscored_items_count_in_nothing():
    """Half of the wrong answers of one row become null: its accuracy rises as if they had not been asked."""
    matrix = planted_matrix([0.5, 0.5], 0.3, [0.1, 0.1])
    results = one_chain(matrix)
    row = results["arms"]["es"]["seeds"]["0"]["scores"]["countdown"][2]
    assert row == scored(0.7)
    row[-15:] = [None] * 15
    found = summarise(results, resamples=FEW)
    assert found["matrix"]["es"]["value"][2][0] == pytest.approx(70 / 85)
    assert found["metrics"]["es"]["forgetting"]["value"] == pytest.approx(0.8 - 70 / 85)
    json.dumps(found, allow_nan=False)


def test_what_is_incomplete_is_left_out_by_name():
    results = full_run()
    seeds = {arm: entry["seeds"] for arm, entry in results["arms"].items()}
    seeds["es"]["2"]["stages"].pop()
    seeds["grpo"]["1"]["scores"]["yes_no"].pop()
    seeds["grpo"]["0"]["scores"]["gsm8k"][3] = [None] * ITEMS
    del seeds["es-anchored"]["0"]["scores"]["countdown"]
    results["arms"]["grpo-kl"]["seeds"] = {}
    found = summarise(results, resamples=FEW)
    assert found["left_out"] == {
        "es/2": "trained on 3 of 4 tasks",
        "es-anchored/0": "countdown was not scored in all 5 rows",
        "grpo/0": "no answer to gsm8k could be scored in row 3",
        "grpo/1": "yes_no was not scored in all 5 rows",
    }
    assert {arm: list(chains) for arm, chains in found["seeds"].items()} == {
        "es": ["0", "1"],
        "es-anchored": ["1", "2"],
        "grpo": ["2"],
    }
    assert list(found["pairs"]) == ["es|grpo", "es|es-anchored"]


def test_nothing_complete():
    results = full_run()
    for entry in results["arms"].values():
        entry["seeds"] = {}
    found = summarise(results, resamples=FEW)
    assert found["matrix"] == found["pairs"] == found["budget"] == found["left_out"] == {}
    json.dumps(found, allow_nan=False)


def test_one_task_has_no_forgetting():
    results = one_chain([[0.2, 0.5], [0.7, 0.4]], columns=["countdown", "gsm8k"])
    found = summarise(results, resamples=FEW)
    assert found["metrics"]["es"]["forgetting"] is None and found["forgetting"] == {"es": {}}
    assert found["metrics"]["es"]["average_accuracy"]["value"] == pytest.approx(0.7)
    assert [point["base"]["loss"] for point in found["drift"]["points"]] == [pytest.approx(0.1)]
    alone = summarise(one_chain([[0.2], [0.7]]), resamples=FEW)
    assert [point["step"]["loss"] for point in alone["drift"]["points"]] == [None]
    json.dumps(alone, allow_nan=False)


def test_arms_must_have_answered_the_same_items():
    results = full_run()
    for chain in results["arms"]["grpo"]["seeds"].values():
        chain["scores"]["gsm8k"] = [row[:50] for row in chain["scores"]["gsm8k"]]
    with pytest.raises(ValueError, match="numbers of items of gsm8k: .*'es': 100.*'grpo': 50"):
        summarise(results, resamples=FEW)


def test_the_same_results_give_the_same_summary(summary):
    results = full_run()
    before = copy.deepcopy(results)
    assert summarise(results, resamples=FEW) == summary
    assert results == before
    json.dumps(summary, allow_nan=False)


def test_budget():
    stages = [[planted_stage("a", k, 0.1, 1.0, completions) for k in (1, 2)] for completions in (80, 160)]
    spent = budget(stages, ["a", "b"])
    assert spent["tasks"]["a"] == {"steps": 20, "completions": 120, "tokens": 1500, "seconds": 12.5}
    assert spent["total"] == {"steps": 60, "completions": 240, "tokens": 3000, "seconds": 37.5}
    stages[0][1]["tokens"] = None
    assert budget(stages, ["a", "b"])["tasks"]["b"]["tokens"] is None
    assert budget(stages, ["a", "b"])["total"] == {"steps": 60, "completions": 240, "tokens": None, "seconds": 37.5}


def test_pairs_of_arms():
    methods = {"a": "grpo", "b": "es", "c": "grpo", "d": "sft", "e": "grpo"}
    assert main_arms(methods) == ["a", "b", "d"]
    assert arm_pairs(methods) == [("a", "b"), ("a", "d"), ("b", "d"), ("a", "c"), ("a", "e")]


def test_rank_correlation():
    assert rank_correlation([1, 2, 3, 4], [10, 100, 1000, 10000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # No ties: 1 - 6 sum d^2 / (n (n^2 - 1)) with d = 0, 1, -1, 0.
    assert rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(1 - 6 * 2 / 60)
    # Ranks 1.5, 1.5, 3 and 1, 2, 3: covariance 1.5, variances 1.5 and 2.
    assert rank_correlation([5, 5, 9], [1, 2, 3]) == pytest.approx(1.5 / math.sqrt(3))
    # Equal up to rounding is equal.
    assert rank_correlation([0.3, 0.1 + 0.2, 0.9], [1, 2, 3]) == pytest.approx(1.5 / math.sqrt(3))
    assert math.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))
    assert math.isnan(rank_correlation([1, 2], [1, 2]))


def test_polynomial_fit():
    x = [0.001, 0.01, 0.02, 0.05, 0.1]
    fit = polynomial_fit(x, [0.02 + 3 * v - 7 * v * v for v in x])
    assert fit["coefficients"] == pytest.approx([0.02, 3, -7])
    assert fit["r_squared"] == pytest.approx(1)
    # Of y = 0, 1, 0, 1 at x = 0 .. 3 the best parabola is the line 0.2 + 0.2 x: residuals 0.8 of a spread of 1.
    assert polynomial_fit([0, 1, 2, 3], [0, 1, 0, 1])["r_squared"] == pytest.approx(0.2)
    assert polynomial_fit([0, 1, 2], [0, 1, 0]) is None
    assert polynomial_fit([1, 1, 2, 2], [0, 1, 0, 1]) is None
    assert polynomial_fit(x, [0.5] * 5)["r_squared"] is None


def test_points_name_their_stage():
    matrix = np.array(planted_matrix([0.2, 0.2], 0.5, [0.1, 0.1]))
    stages = [planted_stage(task, k, 0.3, 2.0) for k, task in enumerate(TASKS[:2], start=1)]
    points = stage_points("es-wide", "es", "4", stages, matrix)
    assert [(p["arm"], p["method"], p["seed"], p["stage"], p["task"]) for p in points] == [
        ("es-wide", "es", "4", 1, "countdown"),
        ("es-wide", "es", "4", 2, "arithmetic"),
    ]
    assert [point["step"]["forward"] for point in points] == [0.3, 0.3]
    assert [point["base"]["forward"] for point in points] == [0.3, 0.6]
    assert [point["base"]["norm"] for point in points] == pytest.approx([2.0, 2.0 * math.sqrt(2)])
    assert [point["step"]["reverse"] for point in points] == pytest.approx([0.21, 0.21])
    assert continual_metrics(matrix)["forgetting"] == pytest.approx(points[1]["step"]["loss"])
