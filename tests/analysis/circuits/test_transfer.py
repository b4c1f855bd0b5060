import json
from dataclasses import asdict, replace

import pytest
import torch

from analysis.circuits.alignment import PRESETS
from analysis.circuits.faithfulness import INPUT_POLICIES, SHARES, faithfulness_curve
from analysis.circuits.maps import Layout
from analysis.circuits.nodes import CircuitModel
from analysis.circuits.passes import count_passes
from analysis.circuits.planted import model_batch, planted_llama
from analysis.circuits.planted_recovery import auroc
from analysis.circuits.rankings import TransferTask, rank_nodes
from analysis.circuits.transfer import REGIMES, ROW_TITLES, measure, transfer_table
from eval.errors import UserError


# Its pages or models take seconds to make.
pytestmark = pytest.mark.slow


IN_TARGET = ("m0", "a1.h1", "a2.h3", "a0.h2", "m2")
SHORT = {name: replace(preset, epochs=2, batch_size=4) for name, preset in PRESETS.items()}


@pytest.fixture(scope="module")
def source() -> CircuitModel:
    return CircuitModel(planted_llama(("m0", "a1.h2", "a1.h0", "m1"), seed=1))


@pytest.fixture(scope="module")
def target() -> CircuitModel:
    return CircuitModel(planted_llama(IN_TARGET, layers=3, seed=2))


@pytest.fixture(scope="module")
def tasks(source, target) -> dict[str, TransferTask]:
    """Three tasks that differ in length; train, validation and test prompts of each."""
    return {
        name: TransferTask(
            model_batch(source, 12, 6 + number, seed=number),
            model_batch(target, 16, 6 + number, seed=10 + number),
            model_batch(target, 8, 6 + number, seed=20 + number),
            model_batch(target, 10, 6 + number, seed=30 + number),
        )
        for number, name in enumerate(("a", "b", "c"))
    }


@pytest.fixture(scope="module")
def table(source, target, tasks) -> dict:
    return transfer_table(source, target, tasks, SHORT, (0, 1), {"a": "b"}, random_rankings=4, resamples=50)


def test_zero_shot_transfer_finds_planted_nodes_if_corrected(source, target, tasks):
    planted = torch.tensor([node in IN_TARGET for node in target.nodes[1:]])
    two = {task: tasks[task] for task in ("a", "c")}
    found = rank_nodes(source, target, two, PRESETS["corrected"], (0, 1, 2), {})
    for task in two:
        for row in ("in_distribution", "zero_shot", "mask_learning"):
            for scores in found.scores[task][row].values():
                assert auroc(scores[1:], planted) == 1.0, (task, row)
        assert all(auroc(scores[1:], planted) < 1.0 for scores in found.scores[task]["permuted_w"].values())


def test_the_paper_preset_ranks_heads_as_its_start_did(source, target, tasks):
    preset = replace(PRESETS["paper"], epochs=1)
    two = {task: tasks[task] for task in ("a", "c")}
    found = rank_nodes(source, target, two, preset, (0,), {})
    planted = torch.tensor([node in IN_TARGET for node in target.nodes[1:]])
    heads = ~Layout.of(target).is_mlp
    for task in two:
        trained = found.scores[task]["in_distribution"][0][1:]
        assert auroc(trained, planted) < 1.0
        # Sparsity moves all heads alike; what is left between them is what was drawn before training.
        differences = trained[heads].std() / trained[~heads].std()
        assert differences < 0.1, differences


def test_the_table_is_complete_and_json(table, tasks):
    again = json.loads(json.dumps(table, allow_nan=False))
    assert again["presets"] == table["presets"]
    assert table["seeds"] == [0, 1] and table["shares"] == list(SHARES) and table["rows"] == ROW_TITLES
    assert table["nodes"] == {"source": 11, "target": 16}
    assert table["examples"]["a"] == {"source": 12, "train": 16, "validation": 8, "test": 10}
    for name, preset in table["presets"].items():
        assert preset["choices"] == asdict(SHORT[name])
        for task, found in preset["tasks"].items():
            assert set(found["rows"]) == set(ROW_TITLES) - (set() if task == "a" else {"near"})
            assert len(found["source_scores"]) == 11
            for row, entry in found["rows"].items():
                assert entry["examples"] == 10
                for policy in INPUT_POLICIES:
                    assert len(entry[policy]["cpr"]["values"]) == entry["runs"] == len(entry[policy]["smallest"])
                    assert len(entry[policy]["f"]) == 10 and entry[policy]["f"][-1] == 1.0
                    assert (entry[policy]["cpr"]["sd"] is None) == (entry["runs"] == 1)
                if row in ("gold", "depth_mean", "mean_of_gold", "nearest_gold", "equal_compute"):
                    assert entry["seeds"] == [] and entry["runs"] == 1
                elif row == "random_ranking":
                    assert entry["seeds"] == [0, 1, 2, 3]
                else:
                    assert entry["seeds"] == [0, 1]
            assert len(found["rows"]["gold"]["scores"]) == 16
        averages = preset["averages"]["zero_shot"]["always"]
        values = [found["rows"]["zero_shot"]["always"]["cpr"]["mean"] for found in preset["tasks"].values()]
        assert averages["cpr"] == pytest.approx(sum(values) / 3) and averages["tasks"] == 3
        assert preset["averages"]["near"]["always"]["tasks"] == 1


def test_recovery_counts_from_the_floor(table):
    for preset in table["presets"].values():
        for found in preset["tasks"].values():
            floor = found["floor"]
            assert floor["ranked"] == 0.25
            assert floor["always"] == found["rows"]["random_ranking"]["always"]["cpr"]["mean"]
            gold = found["rows"]["gold"]["always"]
            assert gold["published_recovery"] == 1.0
            if gold["recovery"] is not None:
                assert gold["recovery"] == 1.0 and gold["cpr"]["mean"] - floor["always"] >= 0.05
                assert found["rows"]["random_ranking"]["always"]["recovery"] == 0.0
    corrected = table["presets"]["corrected"]["tasks"]
    assert all(found["rows"]["gold"]["always"]["recovery"] == 1.0 for found in corrected.values())


def test_compute_is_what_was_really_asked_of_the_target(table):
    rows = table["presets"]["paper"]["tasks"]["a"]["rows"]
    # 16 prompts: corrupted, then 5 steps forward and backward.
    assert rows["gold"]["compute"] == {"forward": 16 * 6, "backward": 16 * 5, "forward_equivalents": 16 * 16}
    # Two epochs of a clean pass, a gated pass and its gradient, on one task and on the two others.
    assert rows["in_distribution"]["compute"]["forward_equivalents"] == 2 * 16 * 4
    assert rows["zero_shot"]["compute"]["forward_equivalents"] == 2 * 32 * 4
    assert rows["zero_shot"]["compute_ratio"] == 1.0
    assert rows["mask_learning"]["compute"] == rows["in_distribution"]["compute"]
    assert rows["mean_of_gold"]["compute_ratio"] == 2.0
    assert rows["depth_mean"]["compute_ratio"] == rows["random_w"]["compute_ratio"] == 0
    assert rows["best"]["compute"] is None
    rows = table["presets"]["corrected"]["tasks"]["a"]["rows"]
    spent = rows["equal_compute"]["compute"]["forward_equivalents"]
    assert 0.8 < spent / rows["zero_shot"]["compute"]["forward_equivalents"] <= 1.0
    source = table["presets"]["paper"]["tasks"]["a"]["source_compute"]
    assert source == {"forward": 12 * 6, "backward": 12 * 5, "forward_equivalents": 12 * 16}


def test_the_best_regime_is_chosen_on_test_as_published_or_on_validation(source, target, tasks, table):
    found = table["presets"]["paper"]["tasks"]
    for task in found.values():
        best = task["rows"]["best"]
        assert best["chosen_on"] == "test"
        for place, seed in enumerate(("0", "1")):
            values = {
                row: task["rows"][row]["ranked"]["cpr"]["values"][place] for row in REGIMES if row in task["rows"]
            }
            assert best["ranked"]["cpr"]["values"][place] == max(values.values())
            assert values[best["chosen"][seed]] == max(values.values())
    rankings = rank_nodes(source, target, tasks, SHORT["corrected"], (0,), {"a": "b"})
    own = {("", row, 0): rankings.scores["a"][row][0] for row in REGIMES}
    validation = measure(target, tasks["a"].validation, own, SHARES, 1)
    expected = max(REGIMES, key=lambda row: validation["", row, 0]["always"].cpr.value)
    best = table["presets"]["corrected"]["tasks"]["a"]["rows"]["best"]
    assert best["chosen"]["0"] == expected and best["chosen_on"] == "validation"


def test_the_preset_is_judged_by_its_own_policy_for_input(table):
    assert table["presets"]["paper"]["input_policy"] == "ranked"
    assert table["presets"]["corrected"]["input_policy"] == "always"


def test_measuring_at_once_is_measuring_one_by_one(target, tasks):
    batch = tasks["b"].test
    rankings = {
        (number,): torch.randn(16, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        for number in range(3)
    }
    with count_passes(target) as passes:
        found = measure(target, batch, rankings, SHARES, 20, rows=64)
    for key, scores in rankings.items():
        for policy in INPUT_POLICIES:
            curve = faithfulness_curve(target, [batch], scores, input_policy=policy, resamples=20)
            torch.testing.assert_close(
                torch.tensor([point.value for point in found[key][policy].f]),
                torch.tensor([point.value for point in curve.f]),
                atol=1e-5,
                rtol=1e-4,
            )
            assert found[key][policy].cpr.value == pytest.approx(curve.cpr.value, abs=1e-5)
            assert found[key][policy].sizes == curve.sizes
    assert passes.forward < 10 * 3 * len(SHARES) * 2


def test_an_all_positive_ranking_scores_the_artefact_where_input_is_ranked(target, tasks):
    oracle = torch.tensor([0.0] + [2.0 if node in IN_TARGET else 1.0 for node in target.nodes[1:]])
    curves = measure(target, tasks["a"].test, {"oracle": oracle}, SHARES, 10)["oracle"]
    assert curves["ranked"].cpr.value == 0.25
    assert curves["always"].cpr.value > 0.7


@pytest.mark.parametrize("family", ["feature-tied", "depth-kernel", "low-rank", "transport", "identity-delta"])
def test_every_map_family_has_a_table(family, source, target, tasks):
    of_source = target if family == "identity-delta" else source
    tasks = {
        task: replace(prompts, source=prompts.train) if family == "identity-delta" else prompts
        for task, prompts in tasks.items()
    }
    preset = replace(SHORT["corrected"], map=family, epochs=1, batch_size=8)
    found = rank_nodes(of_source, target, tasks, preset, (0,), {})
    for task in tasks:
        for row in ("in_distribution", "zero_shot", "random_w"):
            scores = found.scores[task][row][0]
            assert scores.shape == (16,) and scores.isfinite().all() and scores.unique().numel() > 3
        # Only a transport map knows anything of the target before it is trained: other tasks' scores, which cost.
        cost = found.passes[task]["random_w"]
        assert cost == (found.passes[task]["mean_of_gold"] if family == "transport" else type(cost)())


def test_a_bfloat16_target_is_trained_on_in_float32(source, tasks):
    target = CircuitModel(planted_llama(IN_TARGET, layers=3, seed=2).bfloat16())
    for preset in SHORT.values():
        found = rank_nodes(source, target, tasks, replace(preset, epochs=1, batch_size=16), (0,), {})
        scores = found.scores["a"]["zero_shot"][0]
        assert scores.dtype == torch.float64 and scores.isfinite().all() and scores[1:].unique().numel() == 15


def test_mistakes_are_named(source, target, tasks):
    for arguments, message in (
        (({"a": tasks["a"]}, SHORT, (0,)), "1 task to transfer"),
        ((tasks, SHORT, ()), "seeds"),
        ((tasks, SHORT, (0, 0)), "each once"),
        ((tasks, SHORT, (0,), {"a": "z"}), "near pairs 'a' with 'z'"),
    ):
        with pytest.raises(UserError, match=message):
            transfer_table(source, target, *arguments)
