"""Gaussian noise with an address: (run seed, step, member) names a member, and with a parameter name its noise."""

import math

import torch

from eval.rollout.base import Kind
from eval.tasks.generate import hash64


# What is not multiplied with: looked up by token, or applied to a whole vocabulary, tied or not.
EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")
RESTS = ("dense", "frozen")


class Noise:
    """Standard normal noise that is never stored: the same address gives the same float32 tensor again.

    Every (member seed, parameter name) has a stream of its own, so that tensors of equal shape get independent noise.
    shared: True restarts one stream per member for every tensor, as the code released with "Matching Accuracy,
        Different Geometry" (arXiv 2604.01499) and with ES at Scale (arXiv 2509.24372) does: all tensors of one shape
        then get the same noise in all layers. For study only; the theory of the update assumes independence.
    rank: 0 for independent numbers. Otherwise the noise of a matrix is E = A B^T / sqrt(rank) with A [out, rank] and
        B [in, rank] standard normal (EGGROLL, arXiv 2511.16652). Its numbers have mean 0 and variance 1 and are
        uncorrelated, though not independent.
    rest: what a rank means for the parameters that are not such matrices, the norms, biases, embeddings and the
        output head: "dense" gives them independent numbers, "frozen" none.

    only: names of the parameters that have noise at all; None for all of them.

    Noise is drawn on the device of the weights; CPU and GPU draw different numbers from one seed.
    """

    def __init__(self, shared: bool = False, rank: int = 0, rest: str = "dense", only: frozenset[str] | None = None):
        self.shared, self.rank, self.rest, self.only = shared, rank, rest, only
        self._generators: dict[torch.device, torch.Generator] = {}

    def kind(self, name: str, weight: torch.Tensor) -> Kind:
        if self.only is not None and name not in self.only:
            return "frozen"
        if self.rank == 0:
            return "dense"
        if weight.ndim == 2 and not name.endswith(EMBEDDINGS):
            return "low_rank"
        return "dense" if self.rest == "dense" else "frozen"

    def draw(self, member_seed: int, name: str, weight: torch.Tensor) -> torch.Tensor:
        """float32 noise of the shape and on the device of `weight`; zeros if it is frozen."""
        kind = self.kind(name, weight)
        if kind == "frozen":
            return torch.zeros(weight.shape, device=weight.device)
        if kind == "low_rank":
            a, b = self.factors(member_seed, name, weight)
            return (a / math.sqrt(self.rank)) @ b.T
        return self._normal(member_seed, name, weight.device, weight.shape)

    def factors(self, member_seed: int, name: str, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A [out, rank] and B [in, rank], float32, of a matrix whose noise is low-rank: A B^T / sqrt(rank)."""
        rows, columns = weight.shape
        both = self._normal(member_seed, name, weight.device, (rows + columns, self.rank))
        return both[:rows], both[rows:]

    def _normal(
        self, member_seed: int, name: str, device: torch.device, shape: torch.Size | tuple[int, ...]
    ) -> torch.Tensor:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device)
        generator = self._generators[device]
        generator.manual_seed(member_seed if self.shared else hash64(member_seed, name) >> 1)
        return torch.randn(shape, generator=generator, device=device, dtype=torch.float32)


def member_seed(run_seed: int, step: int, member: int) -> int:
    """The seed of one member, in [0, 2^63)."""
    return hash64("member", run_seed, step, member) >> 1
