from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trainers.tiny_tokenizer import character_tokenizer


@pytest.fixture
def tiny_checkpoint(tmp_path):
    """A function that writes a complete checkpoint folder: a random two-layer Llama and the character tokenizer."""

    def write(name: str, seed: int, change=None, tied: bool = True, **save_options) -> Path:
        tokenizer = character_tokenizer()
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                initializer_range=0.2,
                tie_word_embeddings=tied,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
        if change is not None:
            with torch.no_grad():
                change(model)
        model.save_pretrained(tmp_path / name, **save_options)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return write
