"""GGUF files of random tiny models, laid out as the usual converter lays them out."""

import gguf
import torch
from gguf import MODEL_ARCH, GGUFWriter, TokenType

from tests.tiny import random_model
from trainers.tiny_tokenizer import ASSISTANT, BOXED, END, PAD, UNKNOWN, USER


TYPES = dict.fromkeys((PAD, UNKNOWN, USER, ASSISTANT, END), TokenType.CONTROL) | {BOXED: TokenType.USER_DEFINED}


def permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key matrix as GGUF has them in a Llama: the halves that rotate together lie side by side."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, architecture="llama", end=END, padding=PAD, general=None):
    """A GGUF file of a random tiny model, as the usual converter lays it out; returns the model and its tokenizer.

    The repository's tokenizer with two merges, because a byte-level BPE without any is none in this format.
    """
    model, tokenizer = random_model(architecture, tie_word_embeddings=architecture == "llama")
    tokens = [*sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get), "ab", "cd"]
    model.resize_token_embeddings(len(tokens), mean_resizing=False)
    config = model.config
    writer = GGUFWriter(path, general or architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_license("apache-2.0")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([TYPES.get(token, TokenType.NORMAL) for token in tokens])
    writer.add_token_merges(["a b", "c d"])
    writer.add_chat_template(tokenizer.chat_template)
    writer.add_bos_token_id(tokens.index(UNKNOWN))
    if end is not None:
        writer.add_eos_token_id(tokens.index(end))
    if padding is not None:
        writer.add_pad_token_id(tokens.index(padding))
    names = gguf.get_tensor_name_map(MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    for name, weight in model.named_parameters():
        weight = weight.detach()
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            weight = permuted(weight, heads)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model, tokenizer
