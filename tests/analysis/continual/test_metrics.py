"""Continual metrics against matrices worked out by hand, a planted model of forgetting, and textbook values."""

import numpy as np
import pytest

from analysis.continual.metrics import (
    METRICS,
    Estimate,
    accuracy_matrices,
    continual_metrics,
    forgetting_by_task,
    matrix_estimate,
    metric_estimates,
    paired_difference,
)


# Three tasks and one that is only evaluated. In eighths, so that every number is exact.
MATRIX = (
    np.array(
        [
            [1, 2, 3, 5],  # before any training
            [6, 3, 2, 5],  # after task 1
            [7, 8, 4, 4],  # after task 2: task 1 is better than after its own training
            [4, 5, 8, 2],  # after task 3
        ]
    )
    / 8
)


def test_a_matrix_by_hand():
    assert continual_metrics(MATRIX) == {
        "average_accuracy": (4 + 5 + 8) / 24,
        "learning_accuracy": (6 + 8 + 8) / 24,
        "backward_transfer": ((4 - 6) + (5 - 8)) / 16,
        "forward_transfer": ((3 - 2) + (4 - 3)) / 16,
        "forgetting": ((7 - 4) + (8 - 5)) / 16,
    }
    assert forgetting_by_task(MATRIX).tolist() == [3 / 8, 3 / 8]


def test_the_evaluated_task_does_not_count():
    changed = MATRIX.copy()
    changed[:, 3] = 0.123
    assert continual_metrics(changed) == continual_metrics(MATRIX)
    assert continual_metrics(MATRIX[:, :3]) == continual_metrics(MATRIX)


def test_one_task():
    values = continual_metrics([[0.25], [0.75]])
    assert values == dict.fromkeys(METRICS) | {"average_accuracy": 0.75, "learning_accuracy": 0.75}
    with pytest.raises(ValueError, match="at least 2 trained tasks"):
        forgetting_by_task([[0.25], [0.75]])


def test_nothing_forgotten_and_a_gain():
    frozen = np.full((5, 4), 0.5)
    assert continual_metrics(frozen) == {
        "average_accuracy": 0.5,
        "learning_accuracy": 0.5,
        "backward_transfer": 0.0,
        "forward_transfer": 0.0,
        "forgetting": 0.0,
    }
    better = np.array([[0.0, 0.0], [0.5, 0.0], [0.75, 1.0]])
    assert continual_metrics(better)["forgetting"] == -0.25
    assert continual_metrics(better)["backward_transfer"] == 0.25


@pytest.mark.parametrize("shape", [(3,), (1, 1), (4, 2), (2, 0), (2, 2, 2)])
def test_what_is_no_accuracy_matrix(shape):
    with pytest.raises(ValueError, match="an accuracy matrix is"):
        continual_metrics(np.zeros(shape))


def planted(tasks=4, base=0.125, learned=0.75, lost=0.125, ahead=0.0625):
    """A model that reaches `learned` on a task, loses `lost` at each later one, and gains `ahead` at each earlier."""
    matrix = np.empty((tasks + 1, tasks))
    for row in range(tasks + 1):
        for task in range(1, tasks + 1):
            matrix[row, task - 1] = base + ahead * row if row < task else learned - lost * (row - task)
    return matrix


def exact_scores(matrix, seeds=1, items=64):
    """Right and wrong answers with exactly these shares right."""
    right = np.round(matrix * items).astype(int)
    task_scores = [(np.arange(items) < right[:, [task]]).astype(float) for task in range(matrix.shape[1])]
    return [np.repeat(scores[None], seeds, axis=0) for scores in task_scores]


def test_the_planted_numbers_come_back():
    matrix = planted()
    scores = exact_scores(matrix, seeds=3)
    assert np.array_equal(accuracy_matrices(scores), np.repeat(matrix[None], 3, axis=0))
    estimates = metric_estimates(scores, resamples=200)
    assert {name: estimate.value for name, estimate in estimates.items()} == {
        "average_accuracy": (0.375 + 0.5 + 0.625 + 0.75) / 4,
        "learning_accuracy": 0.75,
        "backward_transfer": -(0.375 + 0.25 + 0.125) / 3,
        "forward_transfer": (0.0625 + 0.125 + 0.1875) / 3,
        "forgetting": (0.375 + 0.25 + 0.125) / 3,
    }
    for estimate in estimates.values():
        assert estimate.low < estimate.value < estimate.high
    entries = matrix_estimate(scores, resamples=200)
    assert np.array_equal(entries["value"], matrix)


def test_unscored_answers_count_in_nothing():
    scores = [np.array([[[0.0, 1.0, np.nan, np.nan], [1.0, 1.0, np.nan, 1.0]]])]
    assert accuracy_matrices(scores).tolist() == [[[0.5], [1.0]]]
    estimate = metric_estimates(scores, resamples=100)["average_accuracy"]
    assert estimate == Estimate(1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="task 0 has a model without a scorable answer"):
        accuracy_matrices([np.full((1, 2, 4), np.nan)])


@pytest.mark.parametrize("shapes", [[], [(2, 3)], [(1, 3, 5), (2, 3, 5)], [(1, 3, 5), (1, 2, 5)]])
def test_scores_that_do_not_fit_together(shapes):
    with pytest.raises(ValueError, match="one array"):
        accuracy_matrices([np.zeros(shape) for shape in shapes])


def test_intervals_are_the_same_for_the_same_seed():
    scores = exact_scores(planted(), seeds=2)
    assert metric_estimates(scores, 100, seed=1) == metric_estimates(scores, 100, seed=1)
    assert metric_estimates(scores, 100, seed=1) != metric_estimates(scores, 100, seed=2)
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        metric_estimates(scores, 100, confidence=95)


def test_intervals_have_the_width_of_the_binomial():
    # One seed: the accuracy of one task is a share of independent items, with standard error sqrt(p (1 - p) / n).
    scores = exact_scores(np.array([[0.25], [0.5]]), items=400)
    estimate = metric_estimates(scores, resamples=4000)["average_accuracy"]
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.06)


def test_intervals_see_the_spread_of_the_seeds():
    # No spread between items: every seed is always right or always wrong on task 1 at the end.
    ends = np.array([0.0, 1.0, 1.0, 0.0])
    scores = [np.stack([np.zeros((4, 30)), np.repeat(ends[:, None], 30, axis=1)], axis=1)]
    estimate = metric_estimates(scores, resamples=4000)["average_accuracy"]
    # The mean of 4 draws from {0, 1}: binomial of 4 and 1/2 over 4, whose 2.5 % and 97.5 % points are 0 and 1.
    assert estimate == Estimate(0.5, 0.0, 1.0)


def test_intervals_cover_as_often_as_they_say():
    generator = np.random.default_rng(0)
    matrix = planted(tasks=2)
    expected = continual_metrics(matrix)["forgetting"]
    covered = 0
    for _ in range(200):
        # Many seeds, because the bootstrap is too narrow with few.
        scores = [
            (generator.random((8, 3, 50)) < matrix[None, :, [task]]).astype(float) for task in range(matrix.shape[1])
        ]
        estimate = metric_estimates(scores, resamples=200)["forgetting"]
        covered += estimate.low <= expected <= estimate.high
    assert 0.90 <= covered / 200 <= 1.0


def test_paired_differences():
    first = np.array([1.0, 0.0, 0.0, 0.0] * 50)
    second = np.array([1.0, 1.0, 0.0, 0.0] * 50)
    estimate = paired_difference(first, second, resamples=4000)
    assert estimate.value == 0.25
    # The difference is 1 on a quarter of the items: a share, with the standard error of one. Unpaired it would be
    # sqrt(3/16 + 1/4) against sqrt(3/16).
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * (3 / 16 / 200) ** 0.5, rel=0.06)
    assert paired_difference(first, first, resamples=100) == Estimate(0.0, 0.0, 0.0)
    reverse = paired_difference(second, first, resamples=4000)
    assert (reverse.value, reverse.low, reverse.high) == pytest.approx((-0.25, -estimate.high, -estimate.low))


def test_paired_differences_over_seeds():
    first = np.array([[0.0] * 10, [1.0] * 10])
    second = np.array([[1.0] * 10] * 3)
    # The seeds of the first method average 0, 1/2 or 1 when two of them are drawn.
    assert paired_difference(first, second, resamples=2000) == Estimate(0.5, 0.0, 1.0)
    first[0, 0] = np.nan
    assert paired_difference(first, second, resamples=50).value == 0.5
    with pytest.raises(ValueError, match="10 and 9 items"):
        paired_difference(first, second[:, 1:])
    with pytest.raises(ValueError, match="no item was scored"):
        paired_difference([np.nan], [1.0])
