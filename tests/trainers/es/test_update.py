"""The update rule against its definition, its statistics against closed forms, and the replay of a seed log."""

import math

import numpy as np
import pytest
import torch

from eval.errors import UserError
from eval.storage import append_jsonl
from trainers.es.noise import Noise, member_seed
from trainers.es.shaping import shape
from trainers.es.update import Update, apply_update, permuted, read_seed_log, replay, replayed


def weights():
    generator = torch.Generator().manual_seed(0)
    return {"a.weight": torch.randn(30, 20, generator=generator), "norm.weight": torch.ones(20)}


def update(step=1, seeds=(11, 12, 13), coefficients=(0.5, 0.0, -0.25), decay=0.0, shared=False):
    return Update(step, list(seeds), list(coefficients), decay, shared, "cpu")


def test_the_update_is_the_weighted_sum_of_the_noise():
    after = weights()
    norm = apply_update(after, weights(), update())
    for name, before in weights().items():
        noise = Noise()
        expected = before + 0.5 * noise.draw(11, name, before) - 0.25 * noise.draw(13, name, before)
        torch.testing.assert_close(after[name], expected)
    moved = sum(float((after[name] - before).double().pow(2).sum()) for name, before in weights().items())
    assert norm == pytest.approx(math.sqrt(moved), rel=1e-5)


def test_zero_coefficients_leave_the_weights_bit_for_bit():
    after = weights()
    assert apply_update(after, weights(), update(coefficients=(0.0, 0.0, 0.0))) == 0.0
    assert all(torch.equal(after[name], before) for name, before in weights().items())


def test_anchored_decay():
    base = weights()
    plain, decayed = weights(), weights()
    apply_update(plain, base, update())
    apply_update(decayed, base, update(decay=0.1))
    for name in base:
        torch.testing.assert_close(decayed[name], base[name] + 0.9 * (plain[name] - base[name]))


@pytest.mark.parametrize("rank", (1, 3))
@pytest.mark.parametrize("rest", ("dense", "frozen"))
def test_a_low_rank_update_is_the_sum_of_the_members_noise(rank, rest):
    after, base = weights(), {name: weight - 1 for name, weight in weights().items()}
    done = Update(1, [11, 12, 13], [0.5, 0.0, -0.25], 0.1, False, "cpu", rank, rest)
    norm = apply_update(after, base, done)
    noise, squares = Noise(rank=rank, rest=rest), 0.0
    for name, before in weights().items():
        moved = before + 0.5 * noise.draw(11, name, before) - 0.25 * noise.draw(13, name, before)
        frozen = rest == "frozen" and name == "norm.weight"
        expected = before if frozen else moved - 0.1 * (moved - base[name])
        torch.testing.assert_close(after[name], expected)
        squares += float((after[name] - before).double().pow(2).sum())
    assert norm == pytest.approx(math.sqrt(squares), rel=1e-5)
    step = after["a.weight"] - weights()["a.weight"] + 0.1 * (weights()["a.weight"] - base["a.weight"])
    assert torch.linalg.matrix_rank(step, rtol=1e-4) == 2 * rank, "two members take part"


def test_a_low_rank_update_of_a_whole_population_has_full_rank():
    after = {"a.weight": torch.zeros(30, 20)}
    seeds = [member_seed(0, 0, member) for member in range(40)]
    apply_update(after, {"a.weight": torch.zeros(30, 20)}, Update(1, seeds, [0.1] * 40, 0.0, False, "cpu", 1))
    assert torch.linalg.matrix_rank(after["a.weight"]) == 20


def test_norm_of_a_low_rank_random_walk():
    """The numbers of E have variance 1 and members are independent: the norm is that of full noise."""
    alpha, members, steps = 0.01, 8, 60
    after = {"w.weight": torch.zeros(200, 300)}
    rng = np.random.default_rng(0)
    for step in range(steps):
        coefficients = [alpha / members * float(value) for value in shape(rng.random(members), "zscore")]
        seeds = [member_seed(0, step, member) for member in range(members)]
        apply_update(after, after, Update(step + 1, seeds, coefficients, 0.0, False, "cpu", 1))
    expected = alpha * math.sqrt(steps * 60_000 / members)
    # |a|^2 |b|^2 varies from member to member by 2/200 + 2/300 of its square, and 480 of them are summed.
    assert float(after["w.weight"].norm()) == pytest.approx(expected, rel=0.02)


def test_norm_of_a_random_walk():
    """With z-scored fitness that knows nothing of the noise, |theta_T - theta_0| = alpha sqrt(T d / N)."""
    alpha, members, steps = 0.01, 8, 40
    base = {"w": torch.zeros(200, 300)}
    after = {"w": torch.zeros(200, 300)}
    rng = np.random.default_rng(0)
    for step in range(steps):
        z = shape(rng.random(members), "zscore")
        seeds = [member_seed(0, step, member) for member in range(members)]
        apply_update(after, base, update(step + 1, seeds, [alpha / members * float(value) for value in z]))
    expected = alpha * math.sqrt(steps * 60_000 / members)
    # Relative standard error of the norm: about 1/sqrt(2 d), plus the few members' noise not being orthogonal.
    assert float(after["w"].norm()) == pytest.approx(expected, rel=0.02)


def test_gradient_on_a_quadratic():
    """E[theta_1 - theta_0] = alpha sigma grad / sigma_R for a linear reward, where sigma_R = sigma |grad|."""
    alpha, sigma, members, dimension = 1.0, 0.1, 2000, 5
    gradient = torch.linspace(-1, 1, dimension)
    noise = Noise()
    seeds = [member_seed(3, 0, member) for member in range(members)]
    rewards = [sigma * float(noise.draw(seed, "w", gradient) @ gradient) for seed in seeds]
    coefficients = [alpha / members * float(value) for value in shape(rewards, "zscore")]
    after = {"w": torch.zeros(dimension)}
    apply_update(after, {"w": torch.zeros(dimension)}, update(1, seeds, coefficients))
    expected = alpha * gradient / gradient.norm()
    # Each coordinate's standard error is about alpha/sqrt(N).
    torch.testing.assert_close(after["w"], expected, rtol=0, atol=3.5 / math.sqrt(members))


def test_replay_gives_the_same_bits(tmp_path):
    base, after = weights(), weights()
    log = tmp_path / "seeds.jsonl"
    rng = np.random.default_rng(1)
    for step in range(1, 21):
        seeds = [member_seed(7, step, member) for member in range(4)]
        coefficients = (rng.standard_normal(4) * 1e-3).tolist()
        done = Update(step, seeds, coefficients, 0.01, step % 2 == 0, "cpu", rank=step % 3)
        apply_update(after, base, done)
        append_jsonl(log, done.row())
    replayed = replay(base, read_seed_log(log))
    assert all(torch.equal(replayed[name], after[name]) for name in after)
    assert all(torch.equal(base[name], weights()[name]) for name in base)


def test_replay_refuses_a_log_with_a_gap_or_of_another_device():
    with pytest.raises(UserError, match="jumps from step 1 to 3"):
        replay(weights(), [update(1), update(3)])
    with pytest.raises(UserError, match="written on cuda"):
        replay(weights(), [Update(1, [1], [1.0], 0.0, False, "cuda")])


def test_shuffled_fitness_keeps_the_seeds_the_noise_and_the_length_of_every_step():
    generator = np.random.default_rng(0)
    seeds = [[member_seed(0, step, member // 2) for member in range(8)] for step in range(3)]
    signs = [1.0, -1.0] * 4
    updates = [
        Update(step + 1, of_step, (0.01 * generator.standard_normal(8) * signs).tolist(), 0.0, False, "cpu")
        for step, of_step in enumerate(seeds)
    ]
    shuffled = permuted(updates, seed=3)
    assert [update.seeds for update in shuffled] == seeds and [update.step for update in shuffled] == [1, 2, 3]
    for before, after in zip(updates, shuffled, strict=True):
        fitness = [sorted(c * sign for c, sign in zip(u.coefficients, signs, strict=True)) for u in (before, after)]
        assert fitness[0] == fitness[1] and before.coefficients != after.coefficients
    assert permuted(updates, seed=3) == shuffled != permuted(updates, seed=4)


def test_one_replay_gives_the_weights_of_every_step():
    updates = [update(step=step, coefficients=(0.1 * step, 0.0, -0.2)) for step in (1, 2, 3)]
    each = [{name: weight.clone() for name, weight in after.items()} for after in replayed(weights(), updates)]
    for step in (1, 2, 3):
        alone = replay(weights(), updates[:step])
        assert all(torch.equal(each[step - 1][name], alone[name]) for name in alone)
