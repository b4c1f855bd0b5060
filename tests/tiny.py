"""Random models of two layers and width 32, for tests that need a model but not a good one."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from trainers.tiny_tokenizer import character_tokenizer


# What an architecture does not derive from the others' options.
SPECIAL = {"qwen3": {"head_dim": 8}, "mistral": {"sliding_window": None}}


def random_model(
    architecture: str = "llama", seed: int = 0, **options
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model whose weights are large enough for its greedy answers to differ from prompt to prompt."""
    tokenizer = character_tokenizer()
    usual = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    }
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        **(usual | SPECIAL.get(architecture, {}) | options),
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model, tokenizer


def random_checkpoint(folder: Path, architecture: str = "llama", seed: int = 0) -> Path:
    model, tokenizer = random_model(architecture, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
