"""Counting what a method asks of a model: prompts sent forward through it, and backward."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from analysis.circuits.nodes import CircuitModel, hooks


@dataclass
class Passes:
    """Prompts that went through the decoder: K circuits of B prompts in one call are K * B, as is their gradient."""

    forward: int = 0
    backward: int = 0

    @property
    def equivalents(self) -> int:
        """Forward passes of the same cost: a backward pass counts as two."""
        return self.forward + 2 * self.backward

    def __add__(self, other: "Passes") -> "Passes":
        return Passes(self.forward + other.forward, self.backward + other.backward)

    def as_dict(self) -> dict[str, int]:
        return {"forward": self.forward, "backward": self.backward, "forward_equivalents": self.equivalents}


@contextmanager
def count_passes(model: CircuitModel) -> Iterator[Passes]:
    """Count every prompt that passes the model while the context is open, whoever sends it.

    A run of some layers counts as their share of the layers, whatever its length. A backward pass is counted where it
    enters the decoder, so that only those really made are.
    """
    passes = Passes()
    layers_run = 0

    def count_layer(_module, _arguments, output) -> None:
        nonlocal layers_run
        layers_run += len(output[0])
        passes.forward = -(-layers_run // len(model.layers))

    def watch_backward(_module, _arguments, output) -> None:
        hidden = output.last_hidden_state

        def count_backward(gradient: torch.Tensor) -> None:
            passes.backward += len(gradient)

        if hidden.requires_grad:
            hidden.register_hook(count_backward)

    counted = [layer.self_attn.register_forward_hook(count_layer) for layer in model.layers]
    with hooks([model.backbone.register_forward_hook(watch_backward), *counted]):
        yield passes
