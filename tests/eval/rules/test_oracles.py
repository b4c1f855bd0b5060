"""Exact denoisers against enumeration, and against each other in their limits."""

import numpy as np
import pytest
import torch

from eval.generative.edm import noise_levels, sample_heun
from eval.rules import is_member, make_rule
from eval.rules.encoding import decode, encode
from eval.rules.oracles import empirical_denoiser, independent_bit_denoiser, posterior_mean


def noisy(rule, count, low, high, seed=0):
    """float64 inputs around valid strings, and noise levels from `low` to `high`."""
    generator = torch.Generator().manual_seed(seed)
    strings = rule.draw(count, np.random.default_rng(seed))
    sigma = torch.logspace(np.log10(low), np.log10(high), count, dtype=torch.float64)
    x = encode(strings, rule.vocabulary).double()
    return x + sigma[:, None] * torch.randn(x.shape, generator=generator, dtype=torch.float64), sigma


@pytest.mark.parametrize("group", [1, 2, 3, 4, 6])
def test_parity_in_closed_form_is_the_posterior_mean_over_all_valid_strings(group):
    rule = make_rule("parity", length=12, group=group)
    y, sigma = noisy(rule, 200, 0.3, 20.0)
    listed = posterior_mean(y, sigma, encode(rule.valid_strings))
    torch.testing.assert_close(rule.denoise_rule(y, sigma), listed, atol=1e-10, rtol=0)


def test_parity_in_closed_form_where_all_bits_are_certain_and_wrong():
    rule = make_rule("parity", length=3, group=3)
    # An odd number of ones, seen with almost no noise: the bit nearest to 0 is the wrong one.
    y = torch.tensor([[1.0, -1.0, -0.2], [1.0, -1.0, -1.0], [5.0, 5.0, 5.1]], dtype=torch.float64)
    for sigma in (0.3, 0.1, 0.03, 1e-2, 1e-3):
        level = torch.full((3,), sigma, dtype=torch.float64)
        found = rule.denoise_rule(y, level)
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found, posterior_mean(y, level, encode(rule.valid_strings)), atol=1e-6, rtol=0)


def test_parity_in_float32_is_finite_at_every_level_of_the_sampler():
    rule = make_rule("parity", length=24, group=4)
    y = torch.randn(64, 24, generator=torch.Generator().manual_seed(0))
    for level in noise_levels(18)[:-1]:
        found = rule.denoise_rule(y, torch.full((64,), level))
        assert found.dtype == torch.float32
        assert torch.isfinite(found).all() and found.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("name", "options"), [("latin_square", {"side": 3}), ("fixed_weight", {"length": 8, "ones": 4})]
)
def test_listed_rules_approach_the_nearest_string_and_the_mean(name, options):
    rule = make_rule(name, **options)
    y, _ = noisy(rule, 20, 0.1, 0.2)
    points = encode(rule.valid_strings, rule.vocabulary).double()
    nearest = points[torch.cdist(y, points).argmin(dim=1)]
    torch.testing.assert_close(rule.denoise_rule(y, torch.full((20,), 0.05, dtype=torch.float64)), nearest)
    mean = points.mean(dim=0).expand(20, -1)
    far = rule.denoise_rule(y, torch.full((20,), 1e5, dtype=torch.float64))
    torch.testing.assert_close(far, mean, atol=1e-6, rtol=0)


def test_empirical_denoiser_of_all_valid_strings_is_the_rule():
    rule = make_rule("xor_of_halves", length=9)
    y, sigma = noisy(rule, 50, 0.2, 5.0)
    torch.testing.assert_close(empirical_denoiser(rule.valid_strings)(y, sigma), rule.denoise_rule(y, sigma))


def test_without_a_rule_every_symbol_is_denoised_by_itself():
    every = make_rule("parity", length=4, group=1)
    bits = torch.randn(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigma = torch.linspace(0.3, 3.0, 30, dtype=torch.float64)
    # Groups of one bit allow nothing but zeros; two symbols by one-hot are the same as one channel.
    assert every.count == 1
    strings = np.stack([np.array(list(np.binary_repr(i, 4)), dtype=np.int8) for i in range(16)])
    torch.testing.assert_close(independent_bit_denoiser()(bits, sigma), posterior_mean(bits, sigma, encode(strings)))
    threes = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3)
    vectors = torch.randn(30, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        independent_bit_denoiser(3)(vectors, sigma), posterior_mean(vectors, sigma, encode(threes, 3))
    )


@pytest.mark.parametrize("churn", [0.0, 10.0])
def test_sampling_the_oracles_gives_the_rule_copies_and_chance(churn):
    rule = make_rule("parity", length=24, group=3)
    data = rule.split(train=512, held_out=10, seed=0)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1000, 24, generator=generator)

    def sampled(denoise):
        vectors = sample_heun(denoise, noise, noise_levels(18), churn=churn, generator=generator)
        return decode(vectors)

    obedient = sampled(rule.denoise_rule)
    assert rule.valid(obedient).all()
    # 512 of 65,536 valid strings: 7.8 expected in 1000 samples, in either set; 25 is six standard deviations off.
    assert is_member(obedient, data.train).sum() < 25 and is_member(obedient, data.control).sum() < 25
    copied = sampled(empirical_denoiser(data.train))
    assert is_member(copied, data.train).all()
    free = sampled(independent_bit_denoiser())
    # One in 2^8 is valid by chance.
    assert rule.valid(free).sum() < 20 and 0.45 < rule.constraints(free).mean() < 0.55


def test_sampling_the_oracle_of_symbols_gives_latin_squares():
    rule = make_rule("latin_square", side=4)
    noise = torch.randn(300, rule.dimension, generator=torch.Generator().manual_seed(0))
    samples = decode(sample_heun(rule.denoise_rule, noise, noise_levels(18)), rule.vocabulary)
    assert rule.valid(samples).all() and len(np.unique(samples, axis=0)) > 150
