"""Seed-addressed noise: reproducible, and independent wherever the addresses differ."""

import itertools

import torch

from eval.rollout.base import LowRankMember
from trainers.es.member import seeded_member
from trainers.es.noise import Noise, member_seed


WEIGHT = torch.empty(100, 80)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1])


def test_the_same_address_gives_the_same_noise_whatever_was_drawn_before():
    noise = Noise()
    first = noise.draw(member_seed(0, 1, 2), "layer.weight", WEIGHT)
    noise.draw(99, "other", WEIGHT)
    assert torch.equal(noise.draw(member_seed(0, 1, 2), "layer.weight", WEIGHT), first)
    assert torch.equal(Noise().draw(member_seed(0, 1, 2), "layer.weight", WEIGHT), first)
    assert first.dtype == torch.float32 and first.shape == WEIGHT.shape


def test_noise_is_standard_normal_and_independent_between_addresses():
    addresses = [
        (member_seed(run, step, member), name)
        for run, step, member, name in itertools.product((0, 1), (0, 1), (0, 1), ("a.q_proj", "b.q_proj"))
    ]
    draws = [Noise().draw(seed, name, WEIGHT) for seed, name in addresses]
    everything = torch.stack(draws).double()
    # 16 tensors of 8,000 numbers; four standard errors.
    assert abs(everything.mean()) < 4 / everything.numel() ** 0.5
    assert abs(everything.var() - 1) < 4 * (2 / everything.numel()) ** 0.5
    for a, b in itertools.combinations(draws, 2):
        assert abs(correlation(a, b)) < 4.5 / WEIGHT.numel() ** 0.5


def test_shared_noise_gives_equal_tensors_of_one_shape_the_same_noise():
    shared, own = Noise(shared=True), Noise()
    assert torch.equal(shared.draw(5, "a", WEIGHT), shared.draw(5, "b", WEIGHT))
    assert not torch.equal(own.draw(5, "a", WEIGHT), own.draw(5, "b", WEIGHT))


def test_the_dtype_of_the_weight_does_not_matter():
    assert torch.equal(Noise().draw(5, "a", WEIGHT.bfloat16()), Noise().draw(5, "a", WEIGHT))


def test_low_rank_noise_is_the_product_of_its_factors():
    for rank in (1, 3):
        noise = Noise(rank=rank)
        a, b = noise.factors(7, "a.weight", WEIGHT)
        assert a.shape == (100, rank) and b.shape == (80, rank)
        torch.testing.assert_close(noise.draw(7, "a.weight", WEIGHT), a @ b.T / rank**0.5)
        assert torch.linalg.matrix_rank(noise.draw(7, "a.weight", WEIGHT)) == rank


def test_low_rank_noise_has_mean_0_variance_1_and_no_correlation():
    draws = torch.stack([Noise(rank=2).draw(member_seed(0, 0, i), "a.weight", WEIGHT) for i in range(3000)])
    members = len(draws)
    # A product of two normal numbers has a fourth moment of 9, E of rank 2 one of (9 + 3) / 2, its square a variance
    # of 5.
    assert draws.mean(0).abs().max() < 5 / members**0.5
    assert abs(draws.pow(2).mean(0) - 1).max() < 6.5 * (5 / members) ** 0.5
    for other in (draws[:, 1:, :], draws[:, :, 1:]):
        here = draws[:, : other.shape[1], : other.shape[2]]
        # Numbers of one row share A, so that the product has a variance of (1 + 2/2) = 2.
        assert (here * other).mean(0).abs().max() < 6.5 * (2 / members) ** 0.5


def test_factors_are_independent_between_tensors_members_and_sides():
    draws = []
    for seed, name in itertools.product((1, 2), ("a.q_proj.weight", "b.q_proj.weight")):
        draws += Noise(rank=8).factors(seed, name, torch.empty(90, 90))
    for one, other in itertools.combinations(draws, 2):
        assert abs(correlation(one, other)) < 4.5 / one.numel() ** 0.5


def test_what_a_rank_means_for_each_parameter():
    vector = torch.empty(5)
    for rest in ("dense", "frozen"):
        noise = Noise(rank=1, rest=rest)
        assert noise.kind("layers.0.q_proj.weight", WEIGHT) == "low_rank"
        names = ("model.embed_tokens.weight", "lm_head.weight")
        assert {noise.kind(name, WEIGHT) for name in names} == {noise.kind("norm.weight", vector)} == {rest}
    assert not Noise(rank=1, rest="frozen").draw(5, "norm.weight", vector).any()
    dense = Noise(rank=1).draw(5, "norm.weight", vector)
    assert torch.equal(dense, Noise().draw(5, "norm.weight", vector))
    assert Noise(rest="frozen").kind("norm.weight", vector) == "dense"


def test_members_agree_with_their_noise():
    for rank, rest in ((0, "dense"), (1, "frozen"), (4, "dense")):
        member = seeded_member(0, 9, -1, 0.25, Noise(rank=rank, rest=rest))
        for name, weight in (("q_proj.weight", WEIGHT), ("norm.weight", torch.empty(5))):
            delta = member.delta(name, weight)
            torch.testing.assert_close(delta, -0.25 * Noise(rank=rank, rest=rest).draw(9, name, weight))
        if rank:
            a, b = member.factors("q_proj.weight", WEIGHT)
            torch.testing.assert_close(a @ b.T, member.delta("q_proj.weight", WEIGHT))
        assert isinstance(member, LowRankMember) == (rank > 0)


def test_pinned_values():
    """A change here means that no seed log written before can be replayed."""
    assert member_seed(0, 0, 0) == 7975385576801096550
    expected = torch.tensor([[1.8700525, 0.6725917], [-1.9918692, -1.2638291]])
    torch.testing.assert_close(Noise().draw(1, "a", torch.empty(2, 2)), expected, rtol=0, atol=1e-6)
    a, b = Noise(rank=1).factors(1, "a", torch.empty(2, 2))
    torch.testing.assert_close(torch.stack([a[:, 0], b[:, 0]]), expected, rtol=0, atol=1e-6)
