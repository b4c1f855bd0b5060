"""A whole population in one forward pass: each block of rows goes through the weights of its own member."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


def supports(model: nn.Module) -> bool:
    """True if every parameter belongs to a kind of module that `stacked_weights` can run with stacked weights."""
    return all(
        isinstance(module, (nn.Linear, nn.Embedding)) or _is_rms_norm(module)
        for module in model.modules()
        if next(module.parameters(recurse=False), None) is not None
    )


@contextmanager
def stacked_weights(model: nn.Module, stacks: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Inside the block, `model` runs on rows that belong to different members.

    stacks: by parameter name, the members' weights [members, *shape of the parameter]; all parameters of the model,
        tied ones once. The rows of a batch are ordered by member, equally many each.

    The model's own forward runs unchanged; only its leaf modules (Linear, Embedding, RMSNorm) are replaced by
    batched products. The parameters themselves are not touched.
    """
    stack_of = {id(parameter): stacks[name] for name, parameter in model.named_parameters()}
    patched = []
    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        if own:
            module.forward = _stacked_forward(module, {name: stack_of[id(p)] for name, p in own.items()})
            patched.append(module)
    try:
        yield
    finally:
        for module in patched:
            del module.forward  # uncovers the forward of the class


def _is_rms_norm(module: nn.Module) -> bool:
    return type(module).__name__.endswith("RMSNorm")


def _stacked_forward(module: nn.Module, stacks: dict[str, torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    weight = stacks["weight"]
    members = weight.shape[0]

    if isinstance(module, nn.Embedding):
        table = weight.reshape(-1, weight.shape[-1])  # [members * vocabulary, width]
        first_row = torch.arange(members, device=weight.device) * module.num_embeddings

        def embed(ids: torch.Tensor) -> torch.Tensor:  # [rows, length] -> [rows, length, width]
            offsets = first_row.repeat_interleave(ids.shape[0] // members)
            return nn.functional.embedding(ids + offsets[:, None], table)

        return embed

    if isinstance(module, nn.Linear):
        transposed = weight.transpose(1, 2)  # [members, in, out]
        bias = stacks["bias"][:, None] if "bias" in stacks else None  # [members, 1, out]

        def linear(x: torch.Tensor) -> torch.Tensor:  # [rows, ..., in] -> [rows, ..., out]
            flat = x.reshape(members, -1, x.shape[-1])
            out = torch.bmm(flat, transposed) if bias is None else torch.baddbmm(bias, flat, transposed)
            return out.reshape(*x.shape[:-1], -1)

        return linear

    def rms_norm(x: torch.Tensor) -> torch.Tensor:  # [rows, ..., width]
        wide = x.float()
        normalised = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)).to(x.dtype)
        return (normalised.reshape(members, -1, x.shape[-1]) * weight[:, None]).reshape(x.shape)

    return rms_norm
