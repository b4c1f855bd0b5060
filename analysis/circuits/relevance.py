"""Slopes of layer-wise relevance propagation in place of gradients (RelP; Jafari et al. 2025, arXiv 2508.21258).

The values of a run stay as they are; what changes is what its backward pass sees, so that every sum of products of
activations and slopes behind the embeddings is the logit difference itself:

norms      their denominator is a constant
attention  its pattern is a constant: nothing flows back to queries and keys
activation act(x) is x times a constant, act(x) / x
gating     of the product of gate and up, each gets half
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from analysis.circuits.nodes import CircuitModel, hooks


@contextmanager
def relevance_rules(model: CircuitModel) -> Iterator[None]:
    """While the context is open, gradients of the model are slopes of relevance."""
    handles = [model.backbone.norm.register_forward_hook(_constant_denominator)]
    for layer in model.layers:
        handles += [
            layer.input_layernorm.register_forward_hook(_constant_denominator),
            layer.post_attention_layernorm.register_forward_hook(_constant_denominator),
            layer.self_attn.q_proj.register_forward_hook(_constant),
            layer.self_attn.k_proj.register_forward_hook(_constant),
            layer.mlp.act_fn.register_forward_hook(_constant_factor),
            layer.mlp.down_proj.register_forward_pre_hook(_half),
        ]
    with hooks(handles):
        yield


def _constant_denominator(norm, arguments, output):
    x = arguments[0].float()
    inverse = (x.detach().square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
    return _with_slope(output, norm.weight * (x * inverse).to(output.dtype))


def _constant(_projection, _arguments, output):
    return output.detach()


def _constant_factor(_activation, arguments, output):
    x, y = arguments[0], output.detach()
    factor = torch.where(x.detach() == 0, 0.0, y / x.detach())
    return _with_slope(output, factor * x)


def _half(_projection, arguments):
    product = arguments[0]
    return (_with_slope(product, 0.5 * product),)


def _with_slope(value: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """`value`, with the gradient of `of`."""
    return value.detach() + (of - of.detach())
