import math

import pytest
import torch

from analysis.circuits.ablation import ABLATIONS
from analysis.circuits.faithfulness import (
    SHARES,
    LogitDifferences,
    faithfulness_curve,
    gates_of_sizes,
    logit_differences,
    summarise,
    top_circuits,
)
from analysis.circuits.nodes import ARCHITECTURES, CircuitModel
from analysis.circuits.planted import model_batch, planted_llama
from eval.errors import UserError
from tests.tiny import random_model


PLANTED = {"a0.h1", "m0", "a1.h2"}


def oracle(model: CircuitModel) -> torch.Tensor:
    """Planted nodes first, `input` with the score 0 that an aligned circuit gives it."""
    return torch.tensor([0.0] + [2.0 if node in PLANTED else 1.0 for node in model.nodes[1:]])


def test_the_planted_circuit_is_faithful_and_no_part_of_it_is():
    model = CircuitModel(planted_llama(PLANTED))
    whole = PLANTED | {"input"}
    circuits = [whole, PLANTED, *(whole - {node} for node in sorted(PLANTED))]
    gates = torch.stack([model.gates(circuit) for circuit in circuits])
    batches = [model_batch(model, 8, 9), model_batch(model, 8, 7, seed=1)]
    f = logit_differences(model, batches, gates).faithfulness().tolist()
    assert f[0] == pytest.approx(1, abs=1e-6)
    assert f[1] == pytest.approx(0, abs=1e-6)
    assert all(abs(value - 1) > 0.01 for value in f[2:])


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_circuits_in_one_pass_are_circuits_one_by_one(architecture, ablation):
    model = CircuitModel(random_model(architecture)[0])
    batches = [model_batch(model, 5, 8)]
    generator = torch.Generator().manual_seed(0)
    gates = (torch.rand(7, len(model.nodes), generator=generator) < 0.5).float()
    gates[2] = gates[5]
    gates[3], gates[4] = 1.0, 0.0
    together = logit_differences(model, batches, gates, ablation, rows=1000)
    one_by_one = [logit_differences(model, batches, row[None], ablation, rows=1) for row in gates]
    assert together.circuits[2].equal(together.circuits[5])
    assert together.circuits[3].equal(together.clean) and together.circuits[4].equal(together.ablated)
    expected = torch.cat([one.circuits for one in one_by_one])
    torch.testing.assert_close(together.circuits, expected, rtol=1e-4, atol=1e-4)


def test_an_input_that_is_ranked_last_gives_every_ranking_a_quarter():
    """f = 0 until the whole model: 0.5 * (0 + 1) / 2, however good the ranking of the other nodes is."""
    model = CircuitModel(planted_llama(PLANTED))
    batches = [model_batch(model, 8, 9)]
    ranked = faithfulness_curve(model, batches, oracle(model), input_policy="ranked")
    assert ranked.cpr.value == pytest.approx(0.25, abs=1e-6)
    assert ranked.sizes[-1] == len(model.nodes) and ranked.smallest == len(model.nodes)
    always = faithfulness_curve(model, batches, oracle(model), input_policy="always")
    assert always.sizes[-1] == len(model.nodes) - 1
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        random = torch.rand(len(model.nodes), generator=generator)
        assert faithfulness_curve(model, batches, random).cpr.value < always.cpr.value


def test_rankings():
    model = CircuitModel(planted_llama(PLANTED))
    scores = torch.zeros(len(model.nodes))
    scores[model.index["a0.h0"]], scores[model.index["m1"]], scores[model.index["a1.h3"]] = 1.0, 0.5, -2.0

    def kept(size, input_policy, ranking):
        (row,) = gates_of_sizes(model, scores, [size], input_policy, ranking)
        return [name for name, gate in zip(model.nodes, row, strict=True) if gate]

    assert kept(2, "always", "signed") == ["input", "a0.h0", "m1"]
    assert kept(2, "always", "absolute") == ["input", "a0.h0", "a1.h3"]
    assert kept(2, "ranked", "signed") == ["a0.h0", "m1"]
    assert kept(3, "ranked", "signed") == ["input", "a0.h0", "m1"]  # of equal scores, the earlier node
    gates, sizes = top_circuits(model, scores, SHARES, "always", "signed")
    assert sizes == tuple(int(share * 10) for share in SHARES)
    assert gates.sum(1).tolist() == [1 + size for size in sizes]


def test_areas_against_closed_forms():
    shares = [0.25, 0.5, 1.0]
    clean, ablated = torch.tensor([3.0, 5.0]), torch.tensor([1.0, -1.0])
    # Means: clean 4, ablated 0. Kept 2, 5, 4: f = 0.5, 1.25, 1.
    circuits = torch.tensor([[1.0, 3.0], [5.0, 5.0], [3.0, 5.0]])
    curve = summarise(LogitDifferences(clean, ablated, circuits), shares, [1, 2, 4], "always", "signed", "zero")
    assert [point.value for point in curve.f] == [0.5, 1.25, 1.0]
    assert curve.cpr.value == pytest.approx(0.25 * 1.75 / 2 + 0.5 * 2.25 / 2)
    assert curve.cmd.value == pytest.approx(0.25 * 0.75 / 2 + 0.5 * 0.25 / 2)
    assert curve.log_cpr.value == pytest.approx((1.75 / 2 + 2.25 / 2) / 2)
    assert curve.average.value == pytest.approx(2.75 / 3)
    assert curve.smallest == 2
    perfect = LogitDifferences(clean, ablated, clean.expand(3, 2))
    curve = summarise(perfect, shares, [1, 2, 4], "always", "signed", "zero")
    assert (curve.cpr.value, curve.cmd.value, curve.log_cpr.value, curve.smallest) == (0.75, 0.0, 1.0, 1)
    assert (curve.cpr.low, curve.cpr.high) == (0.75, 0.75)
    with pytest.raises(UserError, match="with all nodes and with none"):
        summarise(LogitDifferences(clean, clean, circuits), shares, [1, 2, 4], "always", "signed", "zero")


def test_the_interval_is_that_of_a_ratio_of_means():
    """Independent noise on the kept differences: its standard error over the mean change, by the delta method."""
    generator = torch.Generator().manual_seed(0)
    examples = 400
    clean, ablated = torch.full((examples,), 2.0), torch.zeros(examples)
    kept = 1.0 + torch.randn(1, examples, generator=generator)
    curve = summarise(
        LogitDifferences(clean, ablated, torch.cat([kept, clean[None]])),
        [0.5, 1.0],
        [1, 2],
        "always",
        "signed",
        "x",
        resamples=4000,
    )
    half = 1.96 * kept.std().item() / math.sqrt(examples) / 2
    assert curve.f[0].low == pytest.approx(curve.f[0].value - half, abs=0.1 * half)
    assert curve.f[0].high == pytest.approx(curve.f[0].value + half, abs=0.1 * half)


def test_mistakes_are_named():
    model = CircuitModel(random_model()[0])
    batch, scores = model_batch(model, 3, 5), torch.zeros(11)
    with pytest.raises(UserError, match="shares"):
        faithfulness_curve(model, [batch], scores, shares=[0.5, 0.1])
    with pytest.raises(UserError, match="input policy 'never' is unknown"):
        faithfulness_curve(model, [batch], scores, input_policy="never")
    with pytest.raises(UserError, match="ranking 'best' is unknown"):
        faithfulness_curve(model, [batch], scores, ranking="best")
    with pytest.raises(UserError, match="the model has 11 nodes"):
        faithfulness_curve(model, [batch], scores[:5])
    with pytest.raises(UserError, match="no examples"):
        faithfulness_curve(model, [], scores)
