import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from analysis.circuits.ablation import ABLATIONS, ablated_run, mean_activations
from analysis.circuits.attribution import attribute, circuit_losses
from analysis.circuits.batch import Batch, answer_loss
from analysis.circuits.edges import attribute_edges
from analysis.circuits.exact import exact_patching
from analysis.circuits.exact_edges import patch_edges
from analysis.circuits.nodes import ARCHITECTURES, CircuitModel
from analysis.circuits.passes import count_passes
from analysis.circuits.planted import model_batch, planted_llama
from analysis.circuits.planted_recovery import planted_edges
from eval.errors import UserError
from tests.tiny import random_model


PLANTED = {"a0.h1", "m0", "a1.h2"}


def one_by_one(model: CircuitModel, batch: Batch, ablation: str) -> torch.Tensor:
    """[B, N] by whole runs, a single prompt and a single node at a time: no prefix, no copies in one batch."""
    means = mean_activations(model, [batch])
    scores = torch.zeros(len(batch), len(model.nodes))
    for row in range(len(batch)):
        single = batch.select(slice(row, row + 1))
        removed = ablated_run(model, single, ablation, means)
        with torch.no_grad():
            clean = answer_loss(model.run(single.clean_ids, single.attention_mask).logits, single)
            for node in range(len(model.nodes)):
                gates = torch.ones(1, len(model.nodes))
                gates[0, node] = 0
                scores[row, node] = circuit_losses(model, single, removed.activations, gates, 1)[0, 0] - clean
    return scores


def late_change(model: CircuitModel, examples: int, length: int, start: int, seed: int = 0) -> Batch:
    """Pairs that are equal before `start`, as most tasks' are."""
    batch = model_batch(model, examples, length, seed)
    corrupted = batch.corrupted_ids.clone()
    corrupted[:, :start] = batch.clean_ids[:, :start]
    corrupted[:, start] = batch.clean_ids[:, start] % 40 + 1
    return Batch(batch.clean_ids, corrupted, batch.attention_mask, batch.answer, batch.wrong_answer)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_many_nodes_at_once_on_a_clean_prefix_are_whole_runs_one_by_one(architecture, ablation):
    model = CircuitModel(random_model(architecture)[0])
    for batch in (model_batch(model, 3, 7), late_change(model, 3, 8, 5)):
        expected = one_by_one(model, batch, ablation)
        replacement = ablated_run(model, batch, ablation, mean_activations(model, [batch])).activations
        for rows in (1, 7, 64):
            found = exact_patching(model, batch, replacement, rows)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_windows_are_masked_in_the_copies_too(implementation, side):
    """Prompts of 4 to 9 tokens, and layers that see three tokens back."""
    network, _ = random_model("mistral", attn_implementation=implementation, sliding_window=3)
    model = CircuitModel(network)
    parts = [late_change(model, 2, length, length // 2, seed=length) for length in (4, 6, 9)]
    expected = torch.cat([one_by_one(model, part, "counterfactual") for part in parts])
    rows = [(part, row) for part in parts for row in range(len(part))]
    together = Batch.from_tokens(
        [part.clean_ids[row].tolist() for part, row in rows],
        [part.corrupted_ids[row].tolist() for part, row in rows],
        [int(part.answer[row]) for part, row in rows],
        [int(part.wrong_answer[row]) for part, row in rows],
        0,
        side,
    )
    replacement = ablated_run(model, together, "counterfactual").activations
    for copies in (11, 1000):
        found = exact_patching(model, together, replacement, copies)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_layers_and_positions_before_a_node_are_run_once():
    model = CircuitModel(planted_llama({f"a{layer}.h{head}" for layer in range(4) for head in range(4)}, layers=4))
    batch = late_change(model, 2, 16, 12)
    replacement = ablated_run(model, batch, "counterfactual").activations
    with count_passes(model) as passes, FlopCounterMode(display=False) as counter:
        exact_patching(model, batch, replacement, 64)
    with FlopCounterMode(display=False) as whole:
        model.record(batch.clean_ids, batch.attention_mask)
    # 4 of 16 positions and on average half of the layers of 17 nodes: 17 / 8 whole runs, and one for the prefix.
    assert counter.get_total_flops() < 4 * whole.get_total_flops()
    assert passes.forward < 0.6 * 17 * len(batch) + len(batch) and passes.backward == 0


def test_planted_nodes_and_edges_are_found_exactly():
    model = CircuitModel(planted_llama(PLANTED))
    batch = model_batch(model, 8, 8)
    nodes = attribute(model, [batch], "exact")
    assert {name for name, score in zip(nodes.nodes, nodes.scores, strict=True) if score != 0} == PLANTED | {"input"}
    edges = patch_edges(model, [batch], rows=16)
    cut = edges.per_example.abs().amax(0)
    inside = planted_edges(model, PLANTED)
    assert cut[inside].min() > 1e-3 and cut[~inside].max() < 1e-5


def test_a_cut_edge_to_the_logits_is_what_its_writer_says_to_them():
    """The last MLP is read by the logits alone, so that its edge is the whole node."""
    model = CircuitModel(random_model("qwen3")[0])
    batch = model_batch(model, 3, 6)
    for ablation in ABLATIONS:
        nodes = attribute(model, [batch], "exact", ablation)
        edges = patch_edges(model, [batch], ablation, rows=64)
        found = edges.per_example[:, model.index["m1"], -1]
        torch.testing.assert_close(found, nodes.per_example[:, model.index["m1"]], rtol=1e-3, atol=1e-4)
        assert edges.per_example[:, ~edges.exists].eq(0).all()


def test_edges_along_activations_are_exact_where_the_reader_is_the_end():
    model = CircuitModel(random_model()[0])
    batch = model_batch(model, 3, 6)
    exact = patch_edges(model, [batch], rows=64)
    found = attribute_edges(model, [batch], "nap-ig-activations", steps=32, rule="gauss-legendre", per_example=True)
    last = (slice(None), model.index["m1"], -1)
    torch.testing.assert_close(found.per_example[last], exact.per_example[last], rtol=1e-2, atol=5e-3)
    one_step = attribute_edges(model, [batch], "nap-ig-activations", steps=1, rule="right")
    torch.testing.assert_close(one_step.scores, attribute_edges(model, [batch], "nap").scores, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_patched_is_named(monkeypatch):
    model = CircuitModel(random_model()[0])
    batch = model_batch(model, 2, 5)
    replacement = ablated_run(model, batch, "counterfactual").activations
    monkeypatch.setattr("analysis.circuits.exact_edges.MOST_EDGES", 10)
    with pytest.raises(UserError, match="at most 10 can be cut one by one"):
        patch_edges(model, [batch])
    monkeypatch.setattr(model.model.config, "_attn_implementation", "flash_attention_2")
    with pytest.raises(UserError, match="which flash_attention_2 does not take"):
        exact_patching(model, batch, replacement)
