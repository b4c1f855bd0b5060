import pytest
import torch

from analysis.circuits.nodes import CircuitModel
from analysis.circuits.planted import model_batch, plant, planted_llama
from eval.errors import UserError
from tests.tiny import random_model


def test_what_is_planted_works_as_before_and_the_rest_writes_nothing():
    network, _ = random_model("qwen3")
    model = CircuitModel(network)
    batch = model_batch(model, 3, 6)
    before = model.record(batch.clean_ids, batch.attention_mask).activations
    plant(network, {"a0.h1", "a1.h3"})
    columns = network.model.layers[0].self_attn.o_proj.weight.unflatten(1, (4, 8))
    assert columns[:, [0, 2, 3]].eq(0).all() and columns[:, 1].ne(0).all()
    after = model.record(batch.clean_ids, batch.attention_mask).activations
    assert after.heads[0].equal(before.heads[0])
    assert all(mlp.eq(0).all() for mlp in after.mlps)
    with pytest.raises(UserError, match="no node a0.h4"):
        plant(network, {"a0.h4"})
    with pytest.raises(UserError, match="no node m2"):
        plant(network, {"m2"})


def test_the_model_answers_its_own_prompts_right():
    model = CircuitModel(planted_llama({"a0.h1", "m1"}, vocabulary=30))
    batch = model_batch(model, 20, 8)
    again = model_batch(model, 20, 8)
    assert again.clean_ids.equal(batch.clean_ids) and again.wrong_answer.equal(batch.wrong_answer)
    assert not model_batch(model, 20, 8, seed=1).clean_ids.equal(batch.clean_ids)
    logits = model.run(batch.clean_ids, batch.attention_mask).logits
    assert logits.argmax(-1).equal(batch.answer)
    assert batch.clean_ids.min() > 0 and batch.attention_mask.all()
    changed = (batch.clean_ids != batch.corrupted_ids).float().mean().item()
    assert 0.3 < changed < 0.6
    assert torch.isfinite(logits).all()
