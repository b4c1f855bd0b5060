"""The shipped checkpoints are what the pre-training recipes describe, and start where post-training needs them."""

import pytest

from eval.harness import evaluate_task
from eval.rollout.base import Sampling
from eval.rollout.hf import HFEngine
from eval.tasks import TASKS
from tests.recipe_files import ROOT
from trainers.arguments import parse
from trainers.pretrain import PretrainConfig, new_model
from trainers.tiny_tokenizer import character_tokenizer


MODELS = ROOT / "recipes" / "tiny" / "models"
NAMES = ("llama-small", "llama-medium", "qwen2-small", "qwen2-medium")


@pytest.mark.parametrize("name", NAMES)
def test_the_shape_is_the_recipe_s(name):
    (config,) = parse(PretrainConfig, arguments=["--config", str(ROOT / "recipes" / "tiny" / f"pretrain-{name}.yaml")])
    ours = new_model(config, character_tokenizer())
    shipped = HFEngine.from_pretrained(MODELS / name).model
    assert {n: p.shape for n, p in shipped.named_parameters()} == {n: p.shape for n, p in ours.named_parameters()}
    assert shipped.config.model_type == config.architecture
    assert shipped.lm_head.weight is shipped.model.embed_tokens.weight
    assert shipped.config.num_key_value_heads < shipped.config.num_attention_heads


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_greedy_accuracy_leaves_room_in_both_directions(name):
    engine = HFEngine.from_pretrained(MODELS / name)
    for task in TASKS.values():
        accuracy = evaluate_task(engine, task, "test", 300, 0, Sampling(60), batch_size=300)["accuracy"]
        assert 0.15 <= accuracy <= 0.60, f"{task.name}: {accuracy:.1%}"


def test_all_checkpoints_together_stay_below_8_mb():
    assert sum(path.stat().st_size for path in MODELS.rglob("*.safetensors")) < 8e6
