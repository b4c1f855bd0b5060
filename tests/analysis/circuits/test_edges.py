import pytest
import torch

from analysis.circuits import edges
from analysis.circuits.ablation import ABLATIONS, ablated_run, mean_activations
from analysis.circuits.attribution import attribute, differences
from analysis.circuits.batch import answer_loss
from analysis.circuits.edges import attribute_edges, writer_changes
from analysis.circuits.nodes import ARCHITECTURES, CircuitModel, parse_node
from analysis.circuits.planted import model_batch, planted_llama
from eval.errors import UserError
from tests.tiny import random_model


PLANTED = {"a0.h1", "m0", "a1.h2"}


def slopes_by_brute_force(model: CircuitModel, batch, reader: str, changes: torch.Tensor) -> torch.Tensor:
    """[B, N] dL/d epsilon_u when `reader` alone sees the residual plus sum of epsilon_u d_u, at epsilon = 0.

    Nothing is shared with the code under test: the reader's norm and projection are run again on the shifted residual,
    and their result takes the place of the reader's own part of the output.
    """
    epsilon = torch.zeros(len(batch), changes.shape[1], requires_grad=True)
    residual = {}

    def shifted():
        return residual["x"] + torch.einsum("bn,bntd->btd", epsilon, changes)

    def keep(_module, arguments):
        residual["x"] = arguments[0]

    if reader == "logits":
        handles = [model.backbone.norm.register_forward_pre_hook(lambda _m, arguments: (residual_of(arguments),))]

        def residual_of(arguments):
            residual["x"] = arguments[0]
            return shifted()

    elif reader.startswith("m"):
        layer = model.layers[parse_node(reader)[0]]
        norm = layer.post_attention_layernorm
        handles = [
            norm.register_forward_pre_hook(keep),
            layer.mlp.register_forward_pre_hook(lambda _m, _a: (norm.forward(shifted()),)),
        ]
    else:
        place, kind = reader[1:].rsplit(".", 1)
        number, head = place.replace("kv", "h").split(".h")
        layer = model.layers[int(number)]
        attention = layer.self_attn
        projection = {"q": attention.q_proj, "k": attention.k_proj, "v": attention.v_proj}[kind]
        columns = slice(int(head) * model.head_dim, (int(head) + 1) * model.head_dim)

        def replace(module, _arguments, output):
            again = module.forward(layer.input_layernorm.forward(shifted()))
            changed = output.clone()
            changed[..., columns] = again[..., columns]
            return changed

        handles = [layer.input_layernorm.register_forward_pre_hook(keep), projection.register_forward_hook(replace)]
    run = model.run(batch.clean_ids, batch.attention_mask)
    for handle in handles:
        handle.remove()
    (slopes,) = torch.autograd.grad(answer_loss(run.logits, batch).sum(), epsilon)
    return slopes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_edge_is_the_slope_of_its_reader_alone(architecture):
    model = CircuitModel(random_model(architecture)[0])
    batch = model_batch(model, 2, 6)
    found = attribute_edges(model, [batch], "nap", per_example=True)
    clean = model.record(batch.clean_ids, batch.attention_mask).activations
    removed = ablated_run(model, batch, "counterfactual").activations
    changes = writer_changes(model, differences(removed, clean))
    scale = found.per_example.abs().max().item()
    assert len(found.readers) == 2 * (4 + 2 + 2 + 1) + 1
    for column, reader in enumerate(found.readers):
        slopes = slopes_by_brute_force(model, batch, reader, changes)
        expected = torch.where(found.exists[:, column], slopes, 0.0)
        torch.testing.assert_close(found.per_example[:, :, column], expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("method", "ablation"), [*(("nap", ablation) for ablation in ABLATIONS), ("nap-ig-inputs", "counterfactual")]
)
def test_the_edges_of_a_node_add_up_to_its_score(architecture, method, ablation):
    model = CircuitModel(random_model(architecture)[0])
    batches = [model_batch(model, 3, 6), model_batch(model, 2, 8, seed=1)]
    nodes = attribute(model, batches, method, ablation, steps=3, rule="left")
    found = attribute_edges(model, batches, method, ablation, steps=3, rule="left", per_example=True)
    scale = nodes.per_example.abs().max().item()
    torch.testing.assert_close(found.per_example.sum(2), nodes.per_example, rtol=1e-4, atol=1e-5 * scale)
    torch.testing.assert_close(found.scores, found.per_example.double().mean(0))


def test_an_edge_exists_where_the_writer_comes_first():
    model = CircuitModel(random_model()[0])
    batch = model_batch(model, 6, 5)
    # The last layer's queries matter at the last token only: the prompts must differ there for `input` to reach them.
    assert (batch.clean_ids != batch.corrupted_ids)[:, -1].any()
    found = attribute_edges(model, [batch], "nap")
    assert found.scores[~found.exists].eq(0).all() and found.scores[found.exists].ne(0).all()
    readers = dict(zip(found.readers, found.exists.T, strict=True))
    writers = model.nodes
    assert [name for name, is_edge in zip(writers, readers["a0.h3.q"], strict=True) if is_edge] == ["input"]
    assert [name for name, is_edge in zip(writers, readers["m0"], strict=True) if is_edge] == list(writers[:5])
    assert [name for name, is_edge in zip(writers, readers["a1.kv1.v"], strict=True) if is_edge] == list(writers[:6])
    assert readers["logits"].all()


def test_planted_edges_are_exactly_zero_outside():
    model = CircuitModel(planted_llama(PLANTED))
    found = attribute_edges(model, [model_batch(model, 8, 8)], "nap-ig-inputs")
    for writer, row in zip(found.writers, found.scores.tolist(), strict=True):
        for reader, score in zip(found.readers, row, strict=True):
            # Heads 0, 1 read keys and values of group 0, heads 2, 3 those of group 1.
            reads = reader in {
                "a0.h1.q",
                "a0.kv0.k",
                "a0.kv0.v",
                "m0",
                "a1.h2.q",
                "a1.kv1.k",
                "a1.kv1.v",
                "logits",
            }
            exists = found.exists[found.writers.index(writer), found.readers.index(reader)]
            assert (score != 0) == (reads and writer in PLANTED | {"input"} and bool(exists)), (writer, reader)


def test_examples_in_work_are_as_many_as_fit(monkeypatch):
    model = CircuitModel(random_model()[0])
    batch = model_batch(model, 5, 6)
    expected = attribute_edges(model, [batch], "nap", per_example=True)
    monkeypatch.setattr(edges, "MEMORY", 2 * 4 * len(model.nodes) * 6 * model.width)
    found = attribute_edges(model, [batch], "nap", per_example=True)
    torch.testing.assert_close(found.per_example, expected.per_example, rtol=1e-4, atol=1e-5)
    assert attribute_edges(model, [batch], "nap").per_example is None


def test_zero_and_mean_ablation_need_no_embeddings_of_a_corrupted_prompt():
    model = CircuitModel(random_model()[0])
    batch = model_batch(model, 2, 6)
    means = mean_activations(model, [batch])
    given = attribute_edges(model, [batch], "nap", "mean", means=means)
    torch.testing.assert_close(given.scores, attribute_edges(model, [batch], "nap", "mean").scores)


def test_mistakes_are_named():
    model = CircuitModel(random_model()[0])
    batch = model_batch(model, 2, 5)
    with pytest.raises(UserError, match="method 'exact' is unknown"):
        attribute_edges(model, [batch], "exact")
    with pytest.raises(UserError, match="knows no mean ablation"):
        attribute_edges(model, [batch], "nap-ig-inputs", "mean")
    with pytest.raises(UserError, match="no examples"):
        attribute_edges(model, [])
