"""Verdicts over comparisons whose numbers are known."""

import copy
import random

import pytest

from analysis.claims.judge import Comparison, judge, judge_condition
from analysis.claims.statements import CLAIMS, Claim
from analysis.criteria import MIN_SEEDS


def comparison(task="countdown", budget="matched", precision="fp32", seed=0, **changed) -> Comparison:
    """A comparison in which every claim holds, unless `changed` says otherwise; a little different with every seed."""
    numbers = {
        "es": 0.8,
        "grpo": 0.81,
        "ratio": 50.0,
        "cosine": 0.004,
        "dip": 0.0,
        "es_kl": 0.5,
        "grpo_kl": 0.01,
        "es_probe": 1.2,
        "grpo_probe": 80.0,
        "changed": 0.03,
        "walk": 1.0,
        "off": 0.4,
        "grpo_off": 0.5,
        # What controls measure, on which no claim may hold.
        "control_dip": 0.2,
        "control_hill": 0.2,
        "signal": 0.4,
        "permuted_walk": 1.5,
        "permuted_cosine": -0.0005,
        "random_probe": 1.1,
        "base": 0.25,
    } | changed
    jitter = 1 + 0.001 * seed

    def kl(off, on):
        return {
            name: {direction: {"per_token": value * jitter} for direction in ("forward", "reverse")}
            for name, value in ((task, on), ("yes_no", off), ("other", off))
        }

    def accuracy(on, off):
        return {task: {"accuracy": on * jitter}, "yes_no": {"accuracy": off * jitter}}

    def probe(ratio):
        return {
            "update": {"even": {"loss": [0.0, 0.01 * ratio * jitter]}},
            "random": {"0": {"even": {"loss": [0.0, 0.01 * numbers["random_probe"]]}}},
            "random_mean": {"even": {"loss": [0.0, 0.01]}},
        }

    ts = [0.0, 0.25, 0.5, 0.75, 1.0]
    results = {
        "task": task,
        "evaluation": {
            "base": accuracy(numbers["base"], 0.5),
            "es": accuracy(numbers["es"], numbers["off"]),
            "grpo": accuracy(numbers["grpo"], numbers["grpo_off"]),
        },
        "geometry": {
            "checkpoints": {
                "es": {"norm": numbers["ratio"] * jitter},
                "grpo": {"norm": 1.0, "changed_share_bf16": numbers["changed"] * jitter},
            },
            "cosine": {"es|grpo": {"total": numbers["cosine"] * jitter, "null_std": 0.0013}},
        },
        "theory": {
            "es": {"walk": {"predicted": [1.0, numbers["ratio"] * jitter / numbers["walk"]], "r_squared": 0.999}}
        },
        "random_walk": {
            "es": {
                "alpha": 0.01,
                "steps": 100 * numbers["signal"],
                "measured_norm": 1.0,
                "predicted_norm": 1.0,
            }
        },
        "controls": {
            "lines": {
                "es|grpo": {
                    "lines": {
                        "random": {
                            "ts": [0.0, 0.5, 1.0],
                            "reward": [0.8, 0.8 - numbers["control_dip"], 0.8],
                            "loss": [0.4, 0.4 * (1 + numbers["control_hill"]), 0.4],
                        }
                    }
                }
            },
            "update": {
                "norm": numbers["permuted_walk"],
                "cosine": {"total": numbers["permuted_cosine"], "null_std": 0.0013},
            },
        },
        "kl": {"es": kl(numbers["es_kl"], 0.05), "grpo": kl(numbers["grpo_kl"], 0.02)},
        "connectivity": {
            "lines": {
                "es|grpo": {
                    "ts": ts,
                    "reward": [0.8, 0.8, 0.8 - numbers["dip"] * jitter, 0.8, 0.8],
                    "loss": [0.4, 0.4, 0.4, 0.4, 0.4],
                }
            }
        },
        "probes": {
            "scales": [0.5, 1.0],
            "checkpoints": {"es": probe(numbers["es_probe"]), "grpo": probe(numbers["grpo_probe"])},
        },
    }
    return Comparison({"task": task, "budget": budget, "precision": precision}, seed, results)


def verdicts(comparisons) -> dict[str, tuple[str, ...]]:
    """{claim: (verdict, the factors that it depends on ...)}"""
    return {claim["key"]: (claim["verdict"], *claim["depends_on"]) for claim in judge(comparisons)["claims"]}


def sweep(change=lambda task, budget, precision: {}, seeds=5):
    return [
        comparison(task, budget, precision, seed, **change(task, budget, precision))
        for task in ("countdown", "arithmetic")
        for budget in ("matched", "published")
        for precision in ("fp32", "released")
        for seed in range(seeds)
    ]


def test_all_claims_hold_where_they_were_made_to():
    found = verdicts(sweep())
    assert found.pop("forgetting") == ("not measured",)
    assert set(found.values()) == {("holds",)}, found
    assert len(found) == len(CLAIMS) - 1


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        ("learns", {"es": 0.2}),
        ("accuracy", {"es": 0.6, "base": 0.1}),
        ("norm", {"ratio": 5.0}),
        ("walk", {"walk": 1.5}),
        ("orthogonal", {"cosine": 0.3}),
        ("aligned", {"cosine": -0.004}),
        ("reward-line", {"dip": 0.3}),
        ("off-task-kl", {"es_kl": 0.001}),
        ("off-task-kl-forward", {"es_kl": 0.001}),
        ("breadth", {"es_kl": 0.001}),
        ("es-retention", {"off": 0.6}),
        ("grpo-retention", {"grpo_off": 0.4}),
        ("es-probe", {"es_probe": 9.0}),
        ("grpo-probe", {"grpo_probe": 1.1}),
        ("sparse", {"changed": 0.9}),
    ],
)
def test_each_claim_fails_on_the_number_it_is_about(key, changed):
    assert verdicts(sweep(lambda *_: changed))[key] == ("does not hold",)


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        ("accuracy", {"base": 0.8, "es": 0.86}),
        ("walk", {"permuted_walk": 1.0}),
        ("orthogonal", {"signal": 0.04}),
        ("aligned", {"permuted_cosine": 0.004}),
        ("reward-line", {"control_dip": 0.0}),
        ("loss-line", {"control_hill": 0.05}),
        ("es-probe", {"grpo_probe": 1.1}),
        ("grpo-probe", {"random_probe": 30.0}),
    ],
)
def test_where_the_control_holds_as_well_the_claim_cannot_be_told(key, changed):
    found = {claim["key"]: claim for claim in judge(sweep(lambda *_: changed))["claims"]}[key]
    assert found["verdict"] == "cannot tell" and found["powerless"]
    assert found["cannot tell"] == 8 and {entry["uncorrected"] for entry in found["conditions"]} == {"holds"}


def test_a_control_that_was_not_measured_leaves_nothing_to_tell():
    runs = sweep()
    for run in runs:
        del run.results["controls"]
    found = verdicts(runs)
    assert found["reward-line"] == found["aligned"] == ("cannot tell",)
    assert found["norm"] == ("holds",)


def test_a_claim_is_judged_at_both_stopping_points_and_may_depend_on_them():
    runs = [comparison(seed=seed, ratio=5.0) for seed in range(5)]
    for run in runs:
        run.results["matched"] = {"found": True, "at": copy.deepcopy(comparison(seed=run.seed).results)}
    judged = {claim["key"]: claim for claim in judge(runs)["claims"]}
    assert (judged["norm"]["verdict"], judged["norm"]["depends_on"]) == ("depends", ["stop"])
    assert [entry["stop"] for entry in judged["norm"]["conditions"]] == ["end", "equal accuracy"]
    assert [entry["stop"] for entry in judged["accuracy"]["conditions"]] == ["end"], "equal by construction there"
    assert [entry["stop"] for entry in judged["walk"]["conditions"]] == ["end"], "its control is the whole run's"
    for run in runs:
        run.results["matched"]["found"] = False
    assert verdicts(runs)["norm"] == ("does not hold",), "the nearest pair is no equal one"


def test_the_table_as_a_whole_is_tested_at_five_percent():
    """A number whose interval alone just excludes the limit is undecided among many tests."""
    runs = sweep()
    for run in runs:
        run.results["geometry"]["cosine"]["es|grpo"]["total"] = 0.0012
    judged = judge(runs)
    found = {claim["key"]: claim for claim in judged["claims"]}["aligned"]
    entry = found["conditions"][0]
    assert entry["uncorrected"] == "holds" and 0.01 < entry["p"] <= 0.05
    assert entry["p_holm"] > 0.05 and entry["verdict"] == "undecided" and found["verdict"] == "undecided"
    assert judged["tests"] == sum(len(claim["conditions"]) for claim in judged["claims"])


def test_the_p_value_decides_as_the_interval_does():
    order = random.Random(0)
    for _ in range(200):
        claim = Claim("x", "", "", "", lambda results: None, low=-1.0, high=order.choice([1.0, float("inf")]))
        values = [[order.gauss(order.choice([-1, 0, 1]), 0.6)] for _ in range(5)]
        judged = judge_condition(claim, values)
        assert (judged["uncorrected"] != "undecided") == (judged["p"] <= 0.05)


def test_a_claim_depends_on_the_factor_that_turns_it_round_and_on_no_other():
    by_budget = verdicts(sweep(lambda task, budget, precision: {"es": 0.5} if budget == "published" else {}))
    assert by_budget["accuracy"] == ("depends", "budget")
    assert by_budget["norm"] == ("holds",)
    by_two = verdicts(
        sweep(lambda task, budget, precision: {"ratio": 2.0} if (task, precision) == ("countdown", "released") else {})
    )
    assert by_two["norm"] == ("depends", "task", "precision")


def test_without_a_pair_that_differs_in_one_factor_all_that_differ_are_named():
    runs = [comparison("countdown", "matched", "fp32", seed) for seed in range(5)]
    runs += [comparison("arithmetic", "published", "fp32", seed, ratio=2.0) for seed in range(5)]
    assert verdicts(runs)["norm"] == ("depends", "task", "budget")


def test_a_wide_interval_is_undecided_and_does_not_hide_the_others():
    def one(precision, seed):
        spread = {"es": 0.8 + (0.1 if seed % 2 else -0.1)} if precision == "released" else {}
        return comparison(precision=precision, seed=seed, **spread)

    runs = [one(precision, seed) for precision in ("fp32", "released") for seed in range(6)]
    found = {claim["key"]: claim for claim in judge(runs)["claims"]}["accuracy"]
    assert found["verdict"] == "holds where decided"
    assert (found["holds"], found["fails"], found["undecided"]) == (1, 0, 1)
    assert [entry["verdict"] for entry in found["conditions"]] == ["holds", "undecided"]


def test_too_few_seeds_decide_nothing():
    found = verdicts(sweep(seeds=MIN_SEEDS - 1))
    assert set(found.values()) == {("undecided",), ("not measured",)}
    assert judge(sweep(seeds=MIN_SEEDS - 1))["tests"] == 0
    one = judge(sweep(seeds=1))["claims"][0]["conditions"][0]
    assert one["seeds"] == 1 and one["low"] is None and one["high"] is None


def test_ratios_are_averaged_as_logarithms():
    claim = Claim("x", "", "", "", lambda results: None, low=1.0, logarithmic=True)
    judged = judge_condition(claim, [[2.0], [8.0], [2.0], [8.0], [4.0]])
    assert judged["mean"] == pytest.approx(4.0)
    assert judged["low"] * judged["high"] == pytest.approx(16.0)


def test_a_line_is_judged_where_its_mean_gap_is_largest():
    claim = Claim("x", "", "", "", lambda results: None, high=0.05)
    judged = judge_condition(claim, [[0.0, 0.2, 0.1], [0.3, 0.2, 0.1], [0.0, 0.2, 0.1]])
    assert judged["point"] == 1 and judged["values"] == [0.2, 0.2, 0.2]


def test_the_line_takes_the_gap_to_the_even_line_between_unequal_ends():
    run = comparison()
    line = run.results["connectivity"]["lines"]["es|grpo"]
    line["reward"], line["loss"] = [0.6, 0.6, 0.6, 0.6, 1.0], [0.4, 0.6, 0.5, 0.5, 0.4]
    found = {claim.key: claim.values(run.results) for claim in CLAIMS}
    assert found["reward-line"] == pytest.approx([0.1, 0.2, 0.3])
    assert found["loss-line"] == pytest.approx([0.5, 0.25, 0.25]), "as shares of 0.4"
    line["loss"][2] = None
    assert {claim.key: claim.values(run.results) for claim in CLAIMS}["loss-line"] is None


def test_an_accuracy_that_differs_by_the_limit_is_equal():
    runs = [comparison(seed=seed) for seed in range(MIN_SEEDS)]
    for run in runs:
        scores = run.results["evaluation"]
        scores["base"]["countdown"] = {"accuracy": 0.3, "total": 500}
        scores["es"]["countdown"] = {"accuracy": 0.8, "total": 500}
        scores["grpo"]["countdown"] = {"accuracy": 0.85, "total": 500}
        line = run.results["connectivity"]["lines"]["es|grpo"]
        line["reward"], line["reward_total"] = [0.9, 0.85, 0.9, 0.9, 0.9], [200] * 5
    judged = {claim["key"]: claim for claim in judge(runs)["claims"]}
    assert judged["accuracy"]["verdict"] == "holds"
    assert judged["accuracy"]["conditions"][0]["low"] == -0.05
    # 0.9 - 0.85 is more than 0.05 in floating point.
    assert judged["reward-line"]["verdict"] == "holds"
    assert judged["reward-line"]["conditions"][0]["values"] == [0.05] * MIN_SEEDS
    for run in runs:
        run.results["evaluation"]["grpo"]["countdown"]["accuracy"] = 0.852
    assert {claim["key"]: claim for claim in judge(runs)["claims"]}["accuracy"]["verdict"] == "does not hold"


def test_the_order_of_the_comparisons_does_not_matter():
    runs = sweep()
    shuffled = list(runs)
    random.Random(1).shuffle(shuffled)
    assert judge(runs) == judge(shuffled)


def test_a_comparison_without_sections_is_not_measured_anywhere():
    empty = [Comparison({"task": "a", "budget": "b", "precision": "c"}, 0, {"task": "a"})]
    assert {verdict for (verdict,) in verdicts(empty).values()} == {"not measured"}


def test_a_seed_that_stands_twice_is_an_error():
    with pytest.raises(ValueError, match="a seed stands twice"):
        judge([comparison(), comparison()])
