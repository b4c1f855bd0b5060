"""A random model in which it is known which nodes matter: all others write exactly nothing."""

from collections.abc import Collection

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from analysis.circuits.batch import Batch
from analysis.circuits.nodes import CircuitModel, parse_node
from eval.errors import UserError


def plant(model: PreTrainedModel, circuit: Collection[str]) -> None:
    """Zero, in place, what every head and MLP outside of `circuit` writes.

    Zeroed are their columns of `o_proj` and their whole `down_proj`. The effect of every node outside is then exactly
    0, whatever is patched. Raises UserError for names that are no nodes of the model.
    """
    layers = model.model.layers
    heads = model.config.num_attention_heads
    for name in circuit:
        layer, head = parse_node(name)
        if layer >= len(layers) or (head is not None and head >= heads):
            raise UserError(f"the model has {len(layers)} layers of {heads} heads; it has no node {name}")
    with torch.no_grad():
        for number, layer in enumerate(layers):
            columns = layer.self_attn.o_proj.weight.unflatten(1, (heads, -1))
            for head in range(heads):
                if f"a{number}.h{head}" not in circuit:
                    columns[:, head] = 0
            if f"m{number}" not in circuit:
                layer.mlp.down_proj.weight.zero_()


def planted_llama(
    circuit: Collection[str],
    layers: int = 2,
    heads: int = 4,
    key_value_heads: int = 2,
    width: int = 32,
    vocabulary: int = 50,
    seed: int = 0,
) -> LlamaForCausalLM:
    """A random Llama in float32 whose only working parts are the nodes of `circuit`.

    Weights are normal with a standard deviation of 0.3, so that attention is far from uniform and every planted node
    has an effect worth measuring.
    """
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    plant(model, circuit)
    return model


def model_batch(model: CircuitModel, examples: int, length: int, seed: int = 0) -> Batch:
    """Random pairs of prompts that the model, by definition, answers right.

    The answer is the model's favourite token after the clean prompt. The wrong answer is its favourite, among the
    others, after the corrupted prompt, which differs from the clean one in about half of its tokens. Token 0 is left
    to padding. [examples, length] tokens, none of them padding.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (examples, length)
    vocabulary = model.model.config.vocab_size
    clean = torch.randint(1, vocabulary, shape, generator=generator)
    other = torch.randint(1, vocabulary, shape, generator=generator)
    corrupted = torch.where(torch.rand(shape, generator=generator) < 0.5, clean, other)
    clean, corrupted = clean.to(model.device), corrupted.to(model.device)
    mask = torch.ones_like(clean)
    with torch.no_grad():
        answer = model.run(clean, mask).logits.argmax(-1)
        of_corrupted = model.run(corrupted, mask).logits.scatter(-1, answer.unsqueeze(-1), -torch.inf)
    return Batch(clean, corrupted, mask, answer, of_corrupted.argmax(-1))
