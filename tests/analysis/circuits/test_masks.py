import pytest
import torch

from analysis.circuits.ablation import ABLATIONS
from analysis.circuits.masks import learn_mask
from analysis.circuits.nodes import CircuitModel
from analysis.circuits.planted import model_batch, planted_llama
from eval.errors import UserError


PLANTED = {"a0.h1", "m0", "a1.h2"}


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_gates_of_the_planted_nodes_stay_open_and_the_others_close(ablation):
    for seed in range(3):
        model = CircuitModel(planted_llama(PLANTED, seed=seed))
        found = learn_mask(model, [model_batch(model, 8, 9), model_batch(model, 8, 7, seed=1)], ablation, steps=60)
        scores = dict(zip(found.nodes[1:], found.scores[1:].tolist(), strict=True))
        outside = [score for node, score in scores.items() if node not in PLANTED]
        assert min(scores[node] for node in PLANTED) > max(outside)
        assert max(outside) < 0
        assert found.scores[0] == max(scores.values()) and found.per_example is None


def test_the_model_is_not_trained():
    model = CircuitModel(planted_llama(PLANTED))
    before = {name: parameter.clone() for name, parameter in model.model.named_parameters()}
    learn_mask(model, [model_batch(model, 4, 6)], steps=3)
    for name, parameter in model.model.named_parameters():
        assert parameter.equal(before[name]) and parameter.grad is None
    assert torch.isfinite(model.model(torch.tensor([[1, 2]])).logits).all()


def test_mistakes_are_named():
    model = CircuitModel(planted_llama(PLANTED))
    with pytest.raises(UserError, match="no examples"):
        learn_mask(model, [])
    with pytest.raises(UserError, match="0 steps"):
        learn_mask(model, [model_batch(model, 2, 4)], steps=0)
