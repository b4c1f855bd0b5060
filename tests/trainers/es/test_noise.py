"""Seed-addressed noise: reproducible, and independent wherever the addresses differ."""

import itertools

import torch

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


def test_pinned_values():
    """A change here means that no seed log written before can be replayed."""
    assert member_seed(0, 0, 0) == 7975385576801096550
    expected = torch.tensor([[1.8700525, 0.6725917], [-1.9918692, -1.2638291]])
    torch.testing.assert_close(Noise().draw(1, "a", torch.empty(2, 2)), expected, rtol=0, atol=1e-6)
