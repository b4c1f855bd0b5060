"""Next-token models of a rule's strings: GPT-2 and Llama from transformers, a start token before every string."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from eval.generative.masked import draw
from eval.rules.base import Rule


def gpt2(rule: Rule, width: int, depth: int, heads: int, mlp_ratio: float, positional_scale: float) -> PreTrainedModel:
    """GPT-2 without dropout; learned positions with standard deviation `positional_scale` at the start."""
    config = GPT2Config(
        vocab_size=rule.vocabulary + 1,
        n_positions=rule.positions,
        n_embd=width,
        n_layer=depth,
        n_head=heads,
        n_inner=round(mlp_ratio * width),
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=rule.vocabulary,
        eos_token_id=rule.vocabulary,
    )
    model = GPT2LMHeadModel(config)
    nn.init.normal_(model.transformer.wpe.weight, std=positional_scale)
    return model


def llama(rule: Rule, width: int, depth: int, heads: int, mlp_ratio: float) -> PreTrainedModel:
    """Llama: rotary positions, which have no scale, and a gated MLP."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=rule.vocabulary + 1,
            max_position_embeddings=rule.positions,
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            intermediate_size=round(mlp_ratio * width),
            bos_token_id=rule.vocabulary,
            eos_token_id=rule.vocabulary,
            tie_word_embeddings=True,
        )
    )


class NextToken(nn.Module):
    """Called with a batch, gives -ln p of every string, in nats per symbol."""

    # One sampled string passes through the network once, a position at a time.
    rows_per_sample = 1

    def __init__(self, network: PreTrainedModel, rule: Rule):
        super().__init__()
        self.network = network
        self.positions = rule.positions
        self.vocabulary = rule.vocabulary

    def corrupt(self, count: int, generator: torch.Generator) -> tuple[()]:
        """Nothing is random in the loss."""
        return ()

    def forward(self, strings: Tensor) -> Tensor:
        """float [B]: the loss of integer strings [B, n]."""
        return self.position_loss(strings).mean(dim=1)

    def position_loss(self, strings: Tensor) -> Tensor:
        """float [B, n], in nats: -ln p(x_i | x_1 .. x_{i-1}). The start token's own probability is left out."""
        strings = strings.long()
        logits = self.network(input_ids=self.with_start(strings)[:, :-1], use_cache=False).logits
        # The start token is never predicted.
        logits = logits[..., : self.vocabulary].float()
        return cross_entropy(logits.transpose(1, 2), strings, reduction="none")

    def with_start(self, strings: Tensor) -> Tensor:
        """int64 [B, n + 1]."""
        start = torch.full_like(strings[:, :1], self.vocabulary)
        return torch.cat([start, strings], dim=1)

    @torch.no_grad()
    def sample(
        self, count: int, generator: torch.Generator, prompts: np.ndarray | None = None
    ) -> tuple[np.ndarray, None]:
        """Strings, int8 [count, n], at temperature 1; they begin with `prompts` (integers [count, k]) if given."""
        device = next(self.parameters()).device
        given = torch.zeros(count, 0) if prompts is None else torch.as_tensor(prompts)
        strings = (
            self.with_start(given.long().to(device))
            if given.shape[1]
            else torch.full((count, 1), self.vocabulary, device=device)
        )
        cache, fresh = None, strings
        while strings.shape[1] <= self.positions:
            output = self.network(input_ids=fresh, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            fresh = draw(output.logits[:, -1, : self.vocabulary], generator)[:, None]
            strings = torch.cat([strings, fresh], dim=1)
        return strings[:, 1:].to(torch.int8).cpu().numpy(), None
