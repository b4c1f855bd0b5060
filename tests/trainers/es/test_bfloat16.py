"""The rounding modes against bfloat16 arithmetic done by hand, and what they make of a run."""

import pytest
import torch

from eval.errors import UserError
from trainers.es.bfloat16 import InPlaceMember, add_rounded, apply_rounded_update, round_stochastically
from trainers.es.config import ESConfig
from trainers.es.noise import Noise, member_seed
from trainers.es.search import SeedProblem
from trainers.es.update import Update, apply_update


NAME = "layer.weight"
SIGMA = 1e-3


def weight(std=0.02, shape=(60, 50)) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * std).bfloat16().float()


def test_addition_rounds_noise_product_and_sum():
    start, noise = weight().bfloat16(), torch.randn(60, 50)
    result = start.clone()
    add_rounded(result, noise, 0.3)
    product = (noise.bfloat16().double() * 0.3).to(torch.bfloat16)
    expected = (start.double() + product.double()).to(torch.bfloat16)
    # The product is formed in float32 before it is rounded: nearly always the same.
    assert float((result == expected).double().mean()) > 0.999


def test_a_member_is_perturbed_where_the_ones_before_it_have_left_the_weights():
    start, noise = weight(), Noise()
    members = [(member_seed(0, 0, i), 1) for i in range(3)]
    by_hand = start.bfloat16()
    for seed, _ in members[:2]:
        drawn = noise.draw(seed, NAME, start).bfloat16()
        by_hand.add_(drawn * SIGMA)
        by_hand.sub_(drawn * SIGMA)
    assert not torch.equal(by_hand.float(), start), "restoring by subtraction should leave an error"
    by_hand.add_(noise.draw(members[2][0], NAME, start).bfloat16() * SIGMA)
    member = InPlaceMember(2, *members[2], SIGMA, noise, members[:2])
    # As an engine does it: weight plus delta, in its own dtype.
    assert torch.equal((start + member.delta(NAME, start)).bfloat16(), by_hand)
    exact = InPlaceMember(2, *members[2], SIGMA, noise)
    assert not torch.equal(exact.delta(NAME, start), member.delta(NAME, start))


def test_members_of_one_engine_follow_each_other_and_the_update_is_made_on_the_first():
    problem = SeedProblem(None, Noise(), "none", "released", engines=3)
    rows = [[i, 1] for i in range(8)]
    assert problem.walked(rows, 6) == [[0, 1], [3, 1]]
    assert problem.walked(rows, 1) == []
    assert problem.walked(rows, 9) == [[0, 1], [3, 1], [6, 1]]
    assert SeedProblem(None, Noise(), "none", "exact_restore", engines=3).walked(rows, 6) == []


def test_one_rounded_addition_per_member():
    start = weight()
    seeds, coefficients = [1, 2, 3], [1e-3, -2e-3, 0.0]
    after = {NAME: start.clone()}
    norm = apply_rounded_update(after, "exact_restore", seeds, coefficients, Noise())
    expected = start.bfloat16()
    for seed, coefficient in zip(seeds[:2], coefficients[:2], strict=True):
        expected.add_(Noise().draw(seed, NAME, start).bfloat16() * coefficient)
    assert torch.equal(after[NAME], expected.float())
    assert norm == pytest.approx(float((expected.float() - start).norm()), rel=1e-6)


def test_the_float32_sum_is_rounded_once():
    start = weight()
    after, exact = {NAME: start.clone()}, {NAME: start.clone()}
    apply_rounded_update(after, "fp32_sum", [1, 2], [1e-3, -2e-3], Noise())
    apply_update(exact, exact, Update(1, [1, 2], [1e-3, -2e-3], 0.0, False, "cpu"))
    assert torch.equal(after[NAME], exact[NAME].bfloat16().float())


def test_stochastic_rounding_keeps_the_expectation_and_picks_a_neighbour():
    value = torch.tensor([1.0 + 2**-9, -0.0201, 3e-5])
    repeated = value.repeat(40_000, 1)
    bits = torch.randint(2**16, repeated.shape, generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    rounded = round_stochastically(repeated, bits).double()
    for column, exact in enumerate(value.double()):
        found = rounded[:, column]
        below, above = sorted(found.unique().tolist())
        assert below < float(exact) < above
        assert torch.nextafter(torch.tensor(below).bfloat16(), torch.tensor(10.0).bfloat16()) == above
        error = float(found.std()) / len(found) ** 0.5
        assert abs(float(found.mean() - exact)) < 4 * error
    exact = torch.tensor([0.5, -2.0])
    assert torch.equal(round_stochastically(exact, torch.tensor([2**16 - 1, 2**16 - 1], dtype=torch.int32)), exact)


@pytest.mark.parametrize("mode", ["released", "exact_restore", "fp32_sum", "stochastic_rounding"])
def test_the_log_row_of_a_rounded_update_gives_the_same_bits(mode):
    walked = [[11, 1], [14, -1]]
    update = Update(
        1,
        [11, 12, 13, 14],
        [1e-3, 0.0, -1e-3, 2e-4],
        0.0,
        True,
        "cpu",
        precision=mode,
        sigma=SIGMA,
        walked=walked if mode == "released" else [],
    )
    found = []
    for row in (update, Update(**update.row())):
        weights = {NAME: weight(), "norm": torch.ones(20)}
        apply_update(weights, weights, row)
        found.append(weights)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert torch.equal(found[0][NAME].bfloat16().float(), found[0][NAME])
    assert not torch.equal(found[0][NAME], weight())


def test_norm_weights_near_one_never_learn_but_collect_the_errors_of_restoring():
    norm = {"norm": torch.linspace(1.0, 1.9, 4000).bfloat16().float()}
    start = norm["norm"].clone()
    seeds = list(range(100, 130))
    coefficients = [5e-4 / 30] * 30
    assert apply_rounded_update(norm, "exact_restore", seeds, coefficients, Noise()) == 0.0
    assert apply_rounded_update(norm, "fp32_sum", seeds, coefficients, Noise()) == 0.0
    walked = [[seed, 1] for seed in seeds[:10]]
    large = {"norm": torch.linspace(0.51, 0.99, 4000).bfloat16().float()}
    before = large["norm"].clone()
    apply_rounded_update(large, "released", seeds, [0.0] * 30, Noise(), walked=walked, sigma=2e-3)
    assert float((large["norm"] != before).double().mean()) > 0.005
    assert torch.equal(norm["norm"], start)


def test_an_anchor_and_rounding_do_not_go_together():
    with pytest.raises(UserError, match="precision released has no anchor"):
        ESConfig(model="no/model", output_dir="unused", precision="released", anchor=1.0)
    with pytest.raises(UserError, match="precision is 'bf16'"):
        ESConfig(model="no/model", output_dir="unused", precision="bf16")
