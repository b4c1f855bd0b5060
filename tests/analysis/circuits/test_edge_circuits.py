import pytest
import torch

from analysis.circuits.ablation import ABLATIONS, ablated_run, mean_activations
from analysis.circuits.edge_circuits import edge_faithfulness_curve, edge_logit_differences, run_edges
from analysis.circuits.edges import attribute_edges, existing_edges, reader_names
from analysis.circuits.faithfulness import logit_differences
from analysis.circuits.nodes import ARCHITECTURES, CircuitModel
from analysis.circuits.planted import model_batch, planted_llama
from eval.errors import UserError
from tests.tiny import random_model


PLANTED = {"a0.h1", "m0", "a1.h2"}
READS = {"a0.h1.q", "a0.kv0.k", "a0.kv0.v", "m0", "a1.h2.q", "a1.kv1.k", "a1.kv1.v", "logits"}


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_edges_of_some_nodes_are_a_node_circuit(architecture, ablation):
    model = CircuitModel(random_model(architecture)[0])
    batch = model_batch(model, 3, 7)
    nodes = (torch.rand(5, len(model.nodes), generator=torch.Generator().manual_seed(0)) < 0.5).float()
    nodes[0], nodes[1] = 1.0, 0.0
    edges = nodes.unsqueeze(2).expand(-1, -1, len(reader_names(model)))
    expected = logit_differences(model, [batch], nodes, ablation)
    found = edge_logit_differences(model, [batch], edges, ablation, rows=6)
    torch.testing.assert_close(found.circuits, expected.circuits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.circuits[0], found.clean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.circuits[1], found.ablated, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_slope_of_a_gate_is_the_edge_s_score(architecture):
    """A gate a little below 1 cuts a little of its edge; divided by how little, that is edge attribution."""
    model = CircuitModel(random_model(architecture)[0])
    batch = model_batch(model, 8, 5)
    scored = attribute_edges(model, [batch], "nap")
    removed = ablated_run(model, batch, "counterfactual").activations
    strongest = scored.scores.abs().flatten().argsort(descending=True)[:40:3].tolist()
    step, count = 0.02, len(scored.readers)
    gates = torch.ones(2 * len(strongest), *scored.exists.shape)
    for row, edge in enumerate(strongest):
        gates[2 * row, edge // count, edge % count] -= step
        gates[2 * row + 1, edge // count, edge % count] += step
    rows = torch.arange(len(batch))
    logits = run_edges(model, batch.clean_ids, batch.attention_mask, gates, removed)
    losses = (logits[:, rows, batch.wrong_answer] - logits[:, rows, batch.answer]).mean(1)
    slopes = (losses[0::2] - losses[1::2]) / (2 * step)
    expected = scored.scores.flatten()[strongest].float()
    torch.testing.assert_close(slopes, expected, rtol=0, atol=0.02 * expected.abs().max().item())


def test_the_planted_edges_are_faithful_and_none_of_them_can_be_missed():
    model = CircuitModel(planted_llama(PLANTED))
    batches = [model_batch(model, 8, 8), model_batch(model, 8, 6, seed=1)]
    writers = torch.tensor([node in PLANTED | {"input"} for node in model.nodes])
    readers = torch.tensor([reader in READS for reader in reader_names(model)])
    planted = (writers[:, None] & readers & existing_edges(model)).float()
    one_cut = planted.repeat(int(planted.sum()), 1, 1)
    for row, (writer, reader) in enumerate(planted.nonzero().tolist()):
        one_cut[row, writer, reader] = 0.0
    found = edge_logit_differences(model, batches, torch.cat([planted[None], one_cut]))
    torch.testing.assert_close(found.circuits[0], found.clean, rtol=1e-4, atol=1e-4)
    assert ((found.circuits[1:] - found.clean).abs().amax(1) > 1e-3).all()


def test_the_best_edges_keep_more_than_edges_at_random():
    model = CircuitModel(random_model("qwen2")[0])
    batches = [model_batch(model, 16, 6)]
    scored = attribute_edges(model, batches, "nap-ig-inputs", steps=10)
    shares = (0.1, 0.3, 0.5, 0.7, 1.0)
    best = edge_faithfulness_curve(model, batches, scored, shares)
    assert best.sizes == tuple(int(share * int(scored.exists.sum())) for share in shares)
    assert best.f[-1].value == pytest.approx(1, abs=1e-4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        scored.scores.copy_(torch.rand(scored.scores.shape, generator=generator))
        assert edge_faithfulness_curve(model, batches, scored, shares).cpr.value < best.cpr.value


def test_padding_changes_nothing():
    model = CircuitModel(random_model("llama")[0])
    batch = model_batch(model, 3, 5)
    means = mean_activations(model, [batch])
    gates = (torch.rand(2, *existing_edges(model).shape, generator=torch.Generator().manual_seed(0)) < 0.7).float()
    expected = run_edges(model, batch.clean_ids, batch.attention_mask, gates, means)
    filler = torch.zeros(3, 2, dtype=torch.long)
    for pad in (lambda ids: torch.cat([filler, ids], 1), lambda ids: torch.cat([ids, filler], 1)):
        found = run_edges(model, pad(batch.clean_ids), pad(batch.attention_mask), gates, means)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for module in model.model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_bfloat16_models_are_summed_in_float32():
    full, half = CircuitModel(random_model()[0]), CircuitModel(random_model()[0].bfloat16())
    batch = model_batch(full, 16, 6)
    expected, found = (attribute_edges(model, [batch], "nap", per_example=True).per_example for model in (full, half))
    assert found.dtype == torch.float32
    assert torch.corrcoef(torch.stack([expected.flatten(), found.flatten()]))[0, 1] > 0.99
    nodes = half.gates({"input", "a0.h1", "m0", "m1"})[None]
    edges = nodes.unsqueeze(2).expand(-1, -1, len(reader_names(half)))
    one, other = logit_differences(half, [batch], nodes), edge_logit_differences(half, [batch], edges)
    assert torch.corrcoef(torch.cat([one.circuits, other.circuits]))[0, 1] > 0.99


def test_mistakes_are_named():
    model, other = CircuitModel(random_model()[0]), CircuitModel(planted_llama(PLANTED, layers=3))
    batch = model_batch(model, 2, 5)
    scored = attribute_edges(model, [batch], "nap")
    with pytest.raises(UserError, match="another shape"):
        edge_faithfulness_curve(other, [batch], scored)
    with pytest.raises(UserError, match="no examples"):
        edge_faithfulness_curve(model, [], scored)
