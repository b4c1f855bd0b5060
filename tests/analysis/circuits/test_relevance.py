import torch

from analysis.circuits.attribution import gradient_run, gradients
from analysis.circuits.batch import answer_loss
from analysis.circuits.nodes import CircuitModel
from analysis.circuits.planted import model_batch
from analysis.circuits.relevance import relevance_rules
from tests.tiny import random_model


def test_relevance_is_conserved_from_the_logits_to_the_embeddings():
    """Without biases and with all rules in place the loss is the sum of what the embeddings contribute."""
    model = CircuitModel(random_model("llama")[0])
    batch = model_batch(model, 4, 8)
    plain = answer_loss(model.run(batch.clean_ids, batch.attention_mask).logits, batch)
    embeddings = model.embed(batch.clean_ids).requires_grad_()
    with relevance_rules(model):
        run = gradient_run(model, batch, embeddings)
        slopes = gradients(run, batch)
    torch.testing.assert_close(answer_loss(run.logits, batch), plain, rtol=1e-6, atol=1e-6)
    relevance = (slopes[0] * embeddings).sum((1, 2))
    torch.testing.assert_close(relevance, plain, rtol=1e-4, atol=1e-4)
    ordinary = gradients(gradient_run(model, batch, model.embed(batch.clean_ids).requires_grad_()), batch)
    assert not torch.allclose((ordinary[0] * embeddings).sum((1, 2)), plain, rtol=1e-2, atol=1e-2)
    assert not any(module._forward_hooks for module in model.model.modules())


def test_nothing_flows_back_through_attention_patterns():
    network, _ = random_model("qwen3")
    model = CircuitModel(network)
    batch = model_batch(model, 2, 6)
    attention = network.model.layers[0].self_attn
    weights = [projection.weight.requires_grad_() for projection in (attention.q_proj, attention.k_proj)]
    value = attention.v_proj.weight.requires_grad_()

    def slopes():
        run = gradient_run(model, batch, model.embed(batch.clean_ids).requires_grad_())
        return torch.autograd.grad(answer_loss(run.logits, batch).sum(), [*weights, value], allow_unused=True)

    with relevance_rules(model):
        *patterns, values = slopes()
    assert patterns == [None, None] and values.abs().max() > 0
    assert all(slope.abs().max() > 0 for slope in slopes())
