import pytest
import torch

from analysis.circuits.ablation import ABLATIONS, ablated_run, mean_activations
from analysis.circuits.attribution import METHODS, RULES, attribute
from analysis.circuits.batch import Batch, answer_loss
from analysis.circuits.nodes import ARCHITECTURES, CircuitModel
from analysis.circuits.planted import model_batch, plant, planted_llama
from eval.errors import UserError
from tests.tiny import random_model


PLANTED = {"a0.h1", "m0", "a1.h2"}
# Every pair that is allowed.
CHOICES = [
    (method, ablation)
    for method in METHODS
    for ablation in ABLATIONS
    if method != "nap-ig-inputs" or ablation == "counterfactual"
]


def scores(model, batches, method="nap", **options):
    return attribute(model, batches, method, **options).per_example


def padded(batch: Batch, count: int, side: str) -> Batch:
    filler = torch.zeros(len(batch), count, dtype=torch.long)

    def pad(ids):
        return torch.cat([filler, ids] if side == "left" else [ids, filler], dim=1)

    return Batch(
        pad(batch.clean_ids), pad(batch.corrupted_ids), pad(batch.attention_mask), batch.answer, batch.wrong_answer
    )


@pytest.mark.parametrize(("method", "ablation"), CHOICES)
def test_planted_circuit_scores_are_exactly_zero_outside(method, ablation):
    model = CircuitModel(planted_llama(PLANTED))
    found = attribute(model, [model_batch(model, 6, 9)], method, ablation)
    inside = [name in PLANTED or name == "input" for name in model.nodes]
    assert {name for name, score in zip(found.nodes, found.scores.tolist(), strict=True) if score != 0} == (
        PLANTED | {"input"}
    )
    assert ((found.per_example != 0).any(0).tolist()) == inside


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", METHODS)
def test_eager_and_sdpa_agree(architecture, method):
    models = [
        CircuitModel(random_model(architecture, attn_implementation=implementation)[0])
        for implementation in ("eager", "sdpa")
    ]
    batch = model_batch(models[0], 4, 8)
    eager, sdpa = (scores(model, [batch], method, steps=3) for model in models)
    torch.testing.assert_close(eager, sdpa, rtol=0, atol=1e-5 * eager.abs().max().item())


@pytest.mark.parametrize("method", METHODS)
def test_batch_size_and_padding_change_nothing(method):
    model = CircuitModel(random_model("qwen2")[0])
    short, long = model_batch(model, 5, 6, seed=0), model_batch(model, 3, 9, seed=1)
    expected = scores(model, [short, long], method)
    tolerance = {"rtol": 1e-4, "atol": 1e-5 * expected.abs().max().item()}
    torch.testing.assert_close(scores(model, [*short.split(2), *long.split(2)], method), expected, **tolerance)
    for side in ("left", "right"):
        together = padded(short, 3, side)
        parts = [together.clean_ids, together.corrupted_ids, together.attention_mask]
        others = [long.clean_ids, long.corrupted_ids, long.attention_mask]
        both = Batch(
            *(torch.cat(pair) for pair in zip(parts, others, strict=True)),
            torch.cat([short.answer, long.answer]),
            torch.cat([short.wrong_answer, long.wrong_answer]),
        )
        torch.testing.assert_close(scores(model, [both], method), expected, **tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_heads_that_change_places_take_their_scores_along(method):
    """Both key-value groups and the query heads inside of one group."""
    order = [3, 2, 0, 1]  # heads 0, 1 share group 0 and 2, 3 group 1
    network, _ = random_model("qwen2")
    model = CircuitModel(network)
    batch = model_batch(model, 4, 8)
    before = scores(model, [batch], method)
    layer = network.model.layers[0].self_attn
    groups = [1, 0]
    for projection, places in ((layer.q_proj, order), (layer.k_proj, groups), (layer.v_proj, groups)):
        for parameter in projection.parameters():
            parameter.copy_(parameter.unflatten(0, (len(places), 8))[places].flatten(0, 1))
    layer.o_proj.weight.copy_(layer.o_proj.weight.unflatten(1, (4, 8))[:, order].flatten(1))
    after = scores(model, [batch], method)
    expected = before.clone()
    expected[:, 1:5] = before[:, [1 + head for head in order]]
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5 * before.abs().max().item())


@pytest.mark.parametrize("method", METHODS)
def test_scores_depend_on_the_product_of_values_and_output_weights_only(method):
    network, _ = random_model("llama")
    model = CircuitModel(network)
    batch = model_batch(model, 4, 8)
    before = scores(model, [batch], method)
    layer = network.model.layers[1].self_attn
    layer.v_proj.weight[:8] *= 4
    layer.o_proj.weight[:, :16] /= 4
    torch.testing.assert_close(
        scores(model, [batch], method), before, rtol=1e-4, atol=1e-5 * before.abs().max().item()
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nap_is_the_slope_of_the_gates(architecture):
    model = CircuitModel(random_model(architecture)[0])
    batch = model_batch(model, 4, 8)
    for ablation in ABLATIONS:
        means = mean_activations(model, [batch])
        replacement = ablated_run(model, batch, ablation, means).activations
        gates = torch.ones(4, len(model.nodes), requires_grad=True)
        run = model.run(batch.clean_ids, batch.attention_mask, gates=gates, replacement=replacement)
        answer_loss(run.logits, batch).sum().backward()
        found = scores(model, [batch], "nap", ablation=ablation)
        torch.testing.assert_close(found, -gates.grad, rtol=1e-4, atol=1e-5 * found.abs().max().item())


@pytest.mark.parametrize("method", ["nap-ig-inputs", "nap-ig-activations", "nap-ig-activations-published"])
def test_one_step_at_the_clean_end_is_nap(method):
    model = CircuitModel(random_model()[0])
    batch = model_batch(model, 4, 8)
    expected = scores(model, [batch], "nap")
    torch.testing.assert_close(scores(model, [batch], method, steps=1, rule="right"), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "ablation"),
    [("nap-ig-inputs", "counterfactual"), ("nap-ig-activations", "counterfactual"), ("nap-ig-activations", "mean")],
)
def test_integrated_gradients_are_complete(method, ablation, capsys):
    model = CircuitModel(random_model()[0])
    batch = model_batch(model, 3, 6)
    coarse = attribute(model, [batch], method, ablation, steps=2, rule="midpoint").completeness
    fine = attribute(model, [batch], method, ablation, steps=128, rule="midpoint").completeness
    assert fine.error < 2e-3 < coarse.error
    assert fine.attributed == pytest.approx(fine.actual, rel=5e-3, abs=1e-3)
    assert f"completeness of {method} (128 steps, midpoint)" in capsys.readouterr().out


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_integrated_gradients_of_an_mlp_are_its_exact_effect(ablation):
    """An MLP is a sub-layer of its own. (With zero ablation the path of `input` has a jump at 0: RMSNorm.)"""
    model = CircuitModel(random_model("qwen3")[0])
    batch = model_batch(model, 3, 6)
    integrated = scores(model, [batch], "nap-ig-activations", ablation=ablation, steps=128, rule="midpoint")
    exact = scores(model, [batch], "exact", ablation=ablation)
    for node in ("m0", "m1"):
        column = model.index[node]
        torch.testing.assert_close(integrated[:, column], exact[:, column], rtol=1e-2, atol=5e-3)


def test_rules_bracket_the_integral():
    """The mean of left and right sums is the trapezoid rule: far closer than either."""
    model = CircuitModel(random_model()[0])
    batch = model_batch(model, 3, 6)
    exact = scores(model, [batch], "nap-ig-inputs", steps=256, rule="midpoint")
    left, right = (scores(model, [batch], "nap-ig-inputs", steps=64, rule=rule) for rule in ("left", "right"))
    error = ((left + right) / 2 - exact).norm()
    assert error < 0.1 * (left - exact).norm() and error < 0.1 * (right - exact).norm()


def test_gauss_and_legendre_integrate_polynomials_exactly_and_attributions_best_with_many_steps():
    for steps in (1, 2, 5):
        points = RULES["gauss-legendre"](steps)
        for degree in range(2 * steps):
            integral = sum(weight * alpha**degree for alpha, weight in points) / steps
            assert integral == pytest.approx(1 / (degree + 1), abs=1e-12)
    model = CircuitModel(random_model()[0])
    batch = model_batch(model, 3, 6)
    for method in ("nap-ig-inputs", "nap-ig-activations"):
        exact = scores(model, [batch], method, steps=256, rule="midpoint")
        errors = {
            rule: (scores(model, [batch], method, steps=64, rule=rule) - exact).norm()
            for rule in ("right", "midpoint", "gauss-legendre")
        }
        # With 8 steps the midpoints are nearer: the path is no polynomial of a low degree.
        assert errors["gauss-legendre"] < errors["midpoint"] < errors["right"]


def test_exact_patching_by_zero_is_the_loss_without_the_weights():
    network, _ = random_model()
    model = CircuitModel(network)
    batch = model_batch(model, 4, 8)
    found = scores(model, [batch], "exact", ablation="zero", rows=10)
    clean = answer_loss(network(batch.clean_ids).logits[:, -1], batch)
    for node in model.nodes[1:]:
        edited, _ = random_model()
        plant(edited, set(model.nodes[1:]) - {node})
        without = answer_loss(edited(batch.clean_ids).logits[:, -1], batch)
        torch.testing.assert_close(found[:, model.index[node]], without - clean, rtol=1e-4, atol=1e-4)


def test_exact_patching_of_the_input_is_the_whole_change():
    model = CircuitModel(random_model("mistral")[0])
    batch = model_batch(model, 4, 8)
    losses = [
        answer_loss(model.run(ids, batch.attention_mask).logits, batch)
        for ids in (batch.corrupted_ids, batch.clean_ids)
    ]
    found = scores(model, [batch], "exact")[:, 0]
    torch.testing.assert_close(found, losses[0] - losses[1], rtol=1e-4, atol=1e-4)


def test_means_leave_padding_out():
    model = CircuitModel(random_model()[0])
    batch = model_batch(model, 4, 6)
    expected = mean_activations(model, [batch])
    for side in ("left", "right"):
        found = mean_activations(model, list(padded(batch, 3, side).split(3)))
        for one, other in zip(found.tensors(), expected.tensors(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_ranks_as_float32_does(method):
    full, half = CircuitModel(random_model()[0]), CircuitModel(random_model()[0].bfloat16())
    batch = model_batch(full, 16, 8)
    expected, found = scores(full, [batch], method), scores(half, [batch], method)
    assert found.dtype == torch.float32
    assert torch.corrcoef(torch.stack([expected.flatten(), found.flatten()]))[0, 1] > 0.99


def test_mistakes_are_named():
    model = CircuitModel(random_model()[0])
    batch = model_batch(model, 2, 5)
    with pytest.raises(UserError, match="method 'eap' is unknown; choose one of nap"):
        attribute(model, [batch], "eap")
    with pytest.raises(UserError, match="ablation 'noise' is unknown"):
        attribute(model, [batch], "nap", "noise")
    with pytest.raises(UserError, match="rule 'middle' is unknown"):
        attribute(model, [batch], rule="middle")
    with pytest.raises(UserError, match="knows no zero ablation"):
        attribute(model, [batch], "nap-ig-inputs", "zero")
    with pytest.raises(UserError, match="0 steps"):
        attribute(model, [batch], steps=0)
    with pytest.raises(UserError, match="no examples"):
        attribute(model, [])
    with pytest.raises(UserError, match="mean ablation needs means"):
        ablated_run(model, batch, "mean")
