from dataclasses import replace

import pytest
import torch

from analysis.circuits.alignment import PRESETS, aligned_scores
from analysis.circuits.controls import (
    MOST_STEPS,
    affordable,
    depth_mean,
    learn_masks,
    mean_of_tasks,
    nearest_task,
    permuted_columns,
    random_ranking,
    recovery,
    scrambled,
    useless_cpr,
)
from analysis.circuits.faithfulness import SHARES
from analysis.circuits.maps import DenseMap, Layout
from analysis.circuits.nodes import CircuitModel
from analysis.circuits.planted import model_batch, planted_llama
from analysis.circuits.planted_recovery import auroc


def test_permuted_columns_keep_the_values_and_move_them():
    alignment = DenseMap(6, 30, torch.Generator().manual_seed(0))
    given = torch.randn(6, generator=torch.Generator().manual_seed(1))
    right, found = aligned_scores(alignment, given), permuted_columns(alignment, given, 2)
    assert found[0] == 0 and not found.equal(right)
    assert found[1:].sort().values.equal(right[1:].sort().values)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    moved = DenseMap(6, 30, torch.Generator())
    moved.load_state_dict({"weight": alignment.weight[:, order]})
    torch.testing.assert_close(found, aligned_scores(moved, given))
    assert not permuted_columns(alignment, given, 3).equal(found)


def test_scrambled_scores_depend_on_task_and_seed():
    given = torch.arange(50.0)
    found = {(task, seed): scrambled(given, task, seed).tolist() for task in ("ioi", "arc") for seed in (0, 1)}
    assert len({str(values) for values in found.values()}) == 4
    for (task, seed), values in found.items():
        assert sorted(values) == given.tolist() and values == scrambled(given, task, seed).tolist()


def test_the_depth_heuristic_of_scores():
    given = torch.tensor([1.0, 3.0, 5.0, 7.0])  # a0.h0, m0, a1.h0, m1
    found = depth_mean(given, Layout(2, 1), Layout(3, 2))
    assert found.tolist() == [0, 0.5, 0.5, 3, 0, 0, 0, 2.5, 2.5, 7]


def test_masks_learned_without_a_source_find_planted_nodes():
    circuit = ("a0.h1", "m0", "a1.h2")
    target = CircuitModel(planted_llama(circuit))
    batch, validation = model_batch(target, 24, 8, seed=1), model_batch(target, 8, 8, seed=2)
    planted = torch.tensor([node in circuit for node in target.nodes[1:]])
    preset = PRESETS["corrected"]
    for seed in range(3):
        scores, training = learn_masks(target, batch, preset, seed, validation)
        assert scores.shape == (11,) and scores[0] == 0
        assert auroc(scores[1:], planted) == 1.0
        assert training.map.matrix().shape == (1, 10)
    with_last, _ = learn_masks(target, batch, replace(preset, keep="last"), 2)
    assert auroc(with_last[1:], planted) == 1.0


def test_the_mean_of_tasks_does_not_follow_the_loudest():
    loud, quiet = torch.tensor([0.0, 300.0, 100.0]), torch.tensor([-0.5, 0.0, 0.5])
    torch.testing.assert_close(mean_of_tasks([loud, quiet]), torch.tensor([-0.25, 0.375, 0.375]))


def test_the_nearest_task_is_the_most_parallel_of_the_others():
    given = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([9.0, 9.0]), "c": torch.tensor([-5.0, 0.1])}
    assert [nearest_task(task, given) for task in given] == ["b", "a", "b"]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (3, (1, 5)),  # less than one example: one
        (160, (10, 5)),
        (16 * 40, (40, 5)),
        (16 * 40 + 3 * 40 * 2 + 50, (40, 7)),  # the examples are used up; two more steps for each
        (10**6, (40, MOST_STEPS)),
    ],
)
def test_what_a_budget_buys(budget, expected):
    assert affordable(budget, 16.0, 40, 5, 3) == expected
    assert affordable(budget, 16.0, 40, 5, 0) == (expected[0], 5)


def test_recovery_is_0_at_the_floor_and_1_at_gold():
    assert recovery(0.25, 0.45, 0.25) == 0 and recovery(0.45, 0.45, 0.25) == 1
    assert recovery(0.35, 0.45, 0.25) == pytest.approx(0.5)
    assert recovery(0.9, 0.28, 0.25) is None and recovery(0.9, 0.1, 0.25) is None
    assert useless_cpr(SHARES) == 0.25


def test_random_rankings_are_drawn_from_their_seed():
    assert random_ranking(12, 3).equal(random_ranking(12, 3))
    assert not random_ranking(12, 3).equal(random_ranking(12, 4))
