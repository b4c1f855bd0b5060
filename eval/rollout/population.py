"""A whole population in one forward pass: each block of rows goes through the weights of its own member."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Factors:
    """The members' low-rank overlays on one matrix: member i has weight + a[i] b[i]^T.

    a: [members, out, rank], b: [members, in, rank], in the model's dtype.
    """

    a: torch.Tensor
    b: torch.Tensor


# What the members have instead of one parameter: weights of their own, [members, *shape], or factors to add to it.
Overlays = Mapping[str, torch.Tensor | Factors]


def supports(model: nn.Module) -> bool:
    """True if every parameter belongs to a kind of module that `stacked_weights` can run with stacked weights."""
    return all(
        isinstance(module, (nn.Linear, nn.Embedding)) or _is_rms_norm(module)
        for module in model.modules()
        if next(module.parameters(recurse=False), None) is not None
    )


@contextmanager
def stacked_weights(model: nn.Module, members: int, overlays: Overlays) -> Iterator[None]:
    """Inside the block, `model` runs on rows that belong to different members.

    overlays: by parameter name, tied ones once. A parameter without an overlay is the model's own for all members.
        Factors are for the weights of Linear modules. The rows of a batch are ordered by member, equally many each.

    The model's own forward runs unchanged; only its leaf modules (Linear, Embedding, RMSNorm) are replaced by
    batched products. The parameters themselves are not touched.
    """
    overlay_of = {id(parameter): overlays.get(name) for name, parameter in model.named_parameters()}
    patched = []
    for module in model.modules():
        own = {name: overlay_of[id(p)] for name, p in module.named_parameters(recurse=False)}
        if any(overlay is not None for overlay in own.values()):
            module.forward = _stacked_forward(module, members, own)
            patched.append(module)
    try:
        yield
    finally:
        for module in patched:
            del module.forward  # uncovers the forward of the class


def _is_rms_norm(module: nn.Module) -> bool:
    return type(module).__name__.endswith("RMSNorm")


def _stacked_forward(
    module: nn.Module, members: int, own: dict[str, torch.Tensor | Factors | None]
) -> Callable[[torch.Tensor], torch.Tensor]:
    weight, bias = own["weight"], own.get("bias")
    assert not isinstance(bias, Factors)
    if isinstance(module, nn.Linear) and not isinstance(weight, torch.Tensor):
        return _shared_linear(module, members, weight, bias)
    assert isinstance(weight, torch.Tensor), "factors are for the weights of Linear modules"

    if isinstance(module, nn.Embedding):
        table = weight.reshape(-1, weight.shape[-1])  # [members * vocabulary, width]
        first_row = torch.arange(members, device=weight.device) * module.num_embeddings

        def embed(ids: torch.Tensor) -> torch.Tensor:  # [rows, length] -> [rows, length, width]
            offsets = first_row.repeat_interleave(ids.shape[0] // members)
            return nn.functional.embedding(ids + offsets[:, None], table)

        return embed

    if isinstance(module, nn.Linear):
        transposed = weight.transpose(1, 2)  # [members, in, out]
        own_bias = None if module.bias is None else module.bias.expand(members, -1)
        biases = own_bias if bias is None else bias  # [members, out]

        def linear(x: torch.Tensor) -> torch.Tensor:  # [rows, ..., in] -> [rows, ..., out]
            flat = x.reshape(members, -1, x.shape[-1])
            out = torch.bmm(flat, transposed) if biases is None else torch.baddbmm(biases[:, None], flat, transposed)
            return out.reshape(*x.shape[:-1], -1)

        return linear

    epsilon: Any = module.variance_epsilon

    def rms_norm(x: torch.Tensor) -> torch.Tensor:  # [rows, ..., width]
        wide = x.float()
        normalised = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)).to(x.dtype)
        return (normalised.reshape(members, -1, x.shape[-1]) * weight[:, None]).reshape(x.shape)

    return rms_norm


def _shared_linear(
    module: nn.Linear, members: int, factors: Factors | None, bias: torch.Tensor | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """One product of all rows with the module's own weight; what the members add to it is thin."""
    shared_bias = module.bias if bias is None else None

    def linear(x: torch.Tensor) -> torch.Tensor:  # [rows, ..., in] -> [rows, ..., out]
        out = nn.functional.linear(x, module.weight, shared_bias)
        blocks = out.view(members, -1, out.shape[-1])
        if factors is not None:
            thin = torch.bmm(x.reshape(members, -1, x.shape[-1]), factors.b)  # [members, rows each, rank]
            blocks = blocks.baddbmm_(thin, factors.a.transpose(1, 2))
        if bias is not None:
            blocks += bias[:, None]
        return out

    return linear
