"""A search over the matrices of a LoRA adapter (arXiv 2106.09685) alone: the model below it stays as it is.

peft puts the adapter's layers into the model itself, so that the engine runs both and names the adapter's parameters
as it names all others, `model.layers.0.self_attn.q_proj.lora_A.default.weight`. In files they have peft's names.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from eval.errors import UserError
from eval.rollout.loading import require_finite
from trainers.es.update import Weights


WEIGHTS = "adapter_model.safetensors"
IN_FILES = "base_model.model."
# What would change the model below the adapter, or is more than the two matrices: (option, values that do not).
PLAIN = {
    "bias": ("none",),
    "modules_to_save": (None, []),
    "init_lora_weights": (True, False, "gaussian", "orthogonal"),
    "use_dora": (False,),
    "trainable_token_indices": (None,),
}


def with_adapter(model: PreTrainedModel | PeftModel, config: PeftConfig | None, seed: int) -> PeftModel:
    """The model with its adapter, or with a new one whose start follows from `seed` alone.

    Raises `UserError` for an adapter that is not plain LoRA.
    """
    if isinstance(model, PeftModel):
        if config is not None:
            raise UserError("the model has an adapter already; leave peft_config out, or merge the adapter first")
        [config] = model.peft_config.values() if len(model.peft_config) == 1 else [None]
        _require_plain(config)
        return model
    _require_plain(config)
    assert isinstance(config, LoraConfig)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, copy.deepcopy(config))  # type: ignore[return-value]


def _require_plain(config: PeftConfig | None) -> None:
    if not isinstance(config, LoraConfig):
        raise UserError(f"only the matrices of one LoRA adapter can be searched, not {type(config).__name__}")
    for name, values in PLAIN.items():
        if (value := getattr(config, name, values[0])) not in values:
            raise UserError(f"peft_config has {name}: {value!r}, which is more than a plain adapter; leave it out")


def searched_names(model: PeftModel) -> frozenset[str]:
    """The parameters of the adapter, as the model inside has them."""
    inside: Any = model.base_model
    return frozenset(name for name, _ in inside.model.named_parameters() if ".lora_" in name)


def save_adapter(folder: Path, model: PeftModel, weights: Weights) -> None:
    """An adapter folder that peft opens, with these weights. Raises UserError for weights that are not finite."""
    require_finite(weights, "this run")
    [(adapter, config)] = model.peft_config.items()
    config = copy.deepcopy(config)
    config.inference_mode = True
    config.save_pretrained(str(folder))
    stored = {_in_files(name, adapter): weight.detach().contiguous().cpu() for name, weight in weights.items()}
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})


def read_adapter(folder: Path, model: PeftModel) -> Weights:
    """The weights in an adapter folder, by the names of parameters."""
    [adapter] = model.peft_config
    names = {_in_files(name, adapter): name for name in searched_names(model)}
    return {names[name]: weight for name, weight in load_file(folder / WEIGHTS).items()}


def _in_files(name: str, adapter: str) -> str:
    return IN_FILES + name.replace(f".{adapter}.", ".")


def merged_weights(model: PeftModel, weights: Weights) -> Weights:
    """All weights of the model with this adapter added to its matrices, float32, by the names of the model alone."""
    [adapter] = model.peft_config
    inside: Any = model.base_model
    merged = {
        name.replace(".base_layer.", "."): parameter.detach().float()
        for name, parameter in inside.model.named_parameters()
        if name not in weights
    }
    for name, layer in inside.model.named_modules():
        if isinstance(layer, LoraLayer):
            a, b = (weights[f"{name}.lora_{side}.{adapter}.weight"] for side in "AB")
            place = f"{name}.weight"
            merged[place] = merged[place] + layer.scaling[adapter] * (b @ a).to(merged[place].device)
    return merged
