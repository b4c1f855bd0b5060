"""From rewards to update weights, with ties, missing scores and baselines."""

import numpy as np
import pytest

from trainers.es.shaping import member_fitness, shape


NAN = float("nan")


def test_zscore():
    z = shape([0.0, 1.0, 1.0, 2.0], "zscore")
    np.testing.assert_allclose(z, [-np.sqrt(2), 0, 0, np.sqrt(2)])
    assert (z**2).sum() == pytest.approx(4)


def test_centered_ranks_share_ties():
    np.testing.assert_allclose(shape([3.0, 1.0, 1.0, 2.0, 9.0], "centered_rank"), [0.25, -0.375, -0.375, 0.0, 0.5])
    np.testing.assert_allclose(shape([0.0, 1.0], "centered_rank"), [-0.5, 0.5])


def test_raw():
    np.testing.assert_allclose(shape([0.5, 0.25], "raw"), [0.5, 0.25])


@pytest.mark.parametrize("how", ["zscore", "centered_rank", "raw"])
def test_tied_members_have_no_say(how):
    np.testing.assert_array_equal(shape([0.3, 0.3, 0.3], how), [0, 0, 0])
    np.testing.assert_array_equal(shape([0.3, NAN, 0.3], how), [0, 0, 0])
    np.testing.assert_array_equal(shape([NAN, NAN], how), [0, 0])
    np.testing.assert_array_equal(shape([0.3, NAN], how), [0, 0])


@pytest.mark.parametrize("how", ["zscore", "centered_rank"])
def test_unscored_members_do_not_change_the_others(how):
    z = shape([1.0, NAN, 2.0, 4.0], how)
    assert z[1] == 0
    np.testing.assert_allclose(z[[0, 2, 3]], shape([1.0, 2.0, 4.0], how))


def test_fitness_is_the_mean_of_the_scored_prompts():
    rewards = np.array([[1.0, 0.0], [NAN, 1.0], [NAN, NAN]])
    np.testing.assert_array_equal(member_fitness(rewards), [0.5, 1.0, NAN])


def test_a_mean_baseline_changes_the_fitness_by_a_constant():
    rewards = np.random.default_rng(0).random((6, 9))
    difference = member_fitness(rewards, "mean") - member_fitness(rewards)
    np.testing.assert_allclose(difference, difference[0])


def test_a_mean_baseline_is_fair_to_members_that_missed_an_easy_prompt():
    rewards = np.array([[1.0, 0.0], [1.0, 0.0], [NAN, 0.0]])
    assert member_fitness(rewards)[2] < member_fitness(rewards)[0]
    np.testing.assert_allclose(member_fitness(rewards, "mean"), [0, 0, 0])


def test_zscore_baseline_weighs_prompts_alike_and_tied_prompts_as_zero():
    rewards = np.array([[0.0, 0.0, 1.0], [0.1, 10.0, 1.0]])
    np.testing.assert_allclose(member_fitness(rewards, "zscore"), [-2 / 3, 2 / 3])


def test_zscore_baseline_keeps_unscored_apart_from_tied():
    rewards = np.array([[NAN, 1.0], [NAN, 1.0], [1.0, NAN]])
    np.testing.assert_array_equal(member_fitness(rewards, "zscore"), [0.0, 0.0, 0.0])
    np.testing.assert_array_equal(member_fitness(np.array([[NAN], [1.0]]), "zscore"), [NAN, 0.0])
