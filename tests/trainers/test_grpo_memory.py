"""GRPO's memory plan: what a layer keeps, counted; and the sums of the plan."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.benchmarks.drivers.training import grpo_options
from tests.benchmarks.es_memory import GRPO_RUN
from tests.tiny import random_model
from trainers.dry_run import grpo_memory_line
from trainers.es.memory import ModelShape
from trainers.grpo_memory import GRPODemand, adapter_parameters, bytes_of_a_layer, plan_grpo_memory


ROWS, LENGTH = 3, 20
SHAPE = {"hidden_size": 128, "intermediate_size": 320, "num_key_value_heads": 2, "head_dim": 32}
DEMAND = GRPODemand(rows=ROWS, generated=ROWS, prompt_tokens=12, max_new_tokens=LENGTH - 12)


def kept_bytes(layers: int, half: bool, lora: bool) -> int:
    """Of what the forward pass of a model saves for the backward pass, but for its parameters and copies of them."""
    model, _ = random_model(num_hidden_layers=layers, **SHAPE)
    model.config._attn_implementation = "sdpa"
    if lora:
        adapter = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, adapter).get_base_model()
    model.train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage()
        of_tokens = tensor.numel() % ROWS == 0 and tensor.shape[0] in (ROWS, ROWS * LENGTH)
        if place.data_ptr() not in own and of_tokens:
            kept[place.data_ptr()] = (place.nbytes(), tensor)  # the tensor, so that its place is not taken again
        return tensor

    ids = torch.randint(6, 90, (ROWS, LENGTH))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            model.model(input_ids=ids, attention_mask=mask, use_cache=False)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_a_layer_keeps_what_the_plan_says(half, lora):
    counted = (kept_bytes(3, half, lora) - kept_bytes(2, half, lora)) / (ROWS * LENGTH)
    model, _ = random_model(**SHAPE)
    demand = replace(DEMAND, half=half, lora_rank=4 if lora else 0)
    planned = bytes_of_a_layer(ModelShape.of(model.config), demand)
    assert 0.98 < planned / counted <= 1  # what is left: a number or two for each head and norm, and the rank's


def test_adapters_are_counted_as_peft_makes_them():
    model, _ = random_model(**SHAPE)
    shape = ModelShape.of(model.config)
    for targets in (None, ("q_proj", "down_proj")):
        options = LoraConfig(
            r=4, target_modules="all-linear" if targets is None else list(targets), task_type="CAUSAL_LM"
        )
        adapted = get_peft_model(random_model(**SHAPE)[0], options)
        trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
        assert adapter_parameters(shape, replace(DEMAND, lora_rank=4, lora_targets=targets)) == trained


def test_the_peak_is_where_activations_or_gradients_are_most():
    model, _ = random_model(**SHAPE)
    shape = ModelShape.of(model.config)
    few, many = (plan_grpo_memory(shape, replace(DEMAND, rows=rows, generated=rows)) for rows in (1, 1000))
    assert few.device["activations and logits"] == 0
    assert few.device_bytes == 16 * shape.parameters
    assert many.device["activations and logits"] + many.device["gradients"] > 1000 * LENGTH * 2 * 128 * 4
    lora = plan_grpo_memory(shape, replace(DEMAND, lora_rank=4))
    trained = adapter_parameters(shape, replace(DEMAND, lora_rank=4))
    assert lora.device["optimizer's moments"] == 2 * lora.device["gradients"] == 8 * trained
    less = plan_grpo_memory(shape, replace(DEMAND, rows=1000, checkpointing=True))
    assert less.device_bytes < many.device_bytes


def test_a_dry_run_says_what_a_run_takes(tmp_path):
    settings = GRPO_RUN | {"model": "recipes/tiny/models/llama-small", "output_dir": str(tmp_path / "run")}
    arguments, config = grpo_options(settings)
    line = grpo_memory_line(arguments, config, 16)
    assert "on each process, without shards: " in line and "optimizer's moments" in line
