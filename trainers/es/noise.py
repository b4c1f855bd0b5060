"""Gaussian noise with an address: (run seed, step, member) names a member, and with a parameter name its noise."""

import torch

from eval.tasks.generate import hash64


class Noise:
    """Standard normal noise that is never stored: the same address gives the same float32 tensor again.

    Every (member seed, parameter name) has a stream of its own, so that tensors of equal shape get independent noise.
    shared: True restarts one stream per member for every tensor, as the code released with "Matching Accuracy,
        Different Geometry" (arXiv 2604.01499) and with ES at Scale (arXiv 2509.24372) does: all tensors of one shape
        then get the same noise in all layers. For study only; the theory of the update assumes independence.

    Noise is drawn on the device of the weights; CPU and GPU draw different numbers from one seed.
    """

    def __init__(self, shared: bool = False):
        self.shared = shared
        self._generators: dict[torch.device, torch.Generator] = {}

    def draw(self, member_seed: int, name: str, weight: torch.Tensor) -> torch.Tensor:
        """float32 noise of the shape and on the device of `weight`."""
        if weight.device not in self._generators:
            self._generators[weight.device] = torch.Generator(weight.device)
        generator = self._generators[weight.device]
        generator.manual_seed(member_seed if self.shared else hash64(member_seed, name) >> 1)
        return torch.randn(weight.shape, generator=generator, device=weight.device, dtype=torch.float32)


def member_seed(run_seed: int, step: int, member: int) -> int:
    """The seed of one member, in [0, 2^63)."""
    return hash64("member", run_seed, step, member) >> 1
