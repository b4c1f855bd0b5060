"""Vectors of moderate length that stand for changes of a model's matrices.

A vector holds some numbers for every matrix of the decoder layers (all weights with two dimensions but the embeddings
and the output head) and changes it by a product of two thin matrices, delta = A B^T with A [out, rank] and
B [in, rank]. All other parameters stay. Three kinds:

    lora      A and B themselves, with B at the start as LoRA has it (arXiv 2106.09685): A = 0, so that nothing changes
    random    a core C [rank, rank] between random orthonormal bases: A = scale U C, B = V
    singular  the relative changes c [rank] of the largest singular values of the matrix: A = U diag(c s), B = V
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from eval.errors import UserError
from eval.rollout.base import Kind
from eval.tasks.generate import hash64
from trainers.es.noise import EMBEDDINGS


SPACES = ("lora", "random", "singular")


@dataclass(frozen=True)
class Place:
    """Where the numbers of one matrix lie in the vector, and the fixed matrices beside them (None for LoRA).

    left: [out, rank]. right: [in, rank]. Both float32 on the device of the weight.
    """

    start: int
    rows: int
    columns: int
    left: torch.Tensor | None = None
    right: torch.Tensor | None = None


class Subspace:
    """The map from vectors to changes of the matrices.

    weights: float32, by parameter name; only read. kind: one of `SPACES`. rank: columns of A and B, the same for all
        matrices. seed: fixes the random bases and the first B of LoRA; both are drawn on the CPU, so that every
        machine has the same.

    length: numbers in a vector. start: the vector that changes nothing, float32 [length] on the CPU.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], kind: str, rank: int, seed: int):
        self.kind, self.rank = kind, rank
        self.places: dict[str, Place] = {}
        self.length = 0
        starts = []
        for name, weight in weights.items():
            if weight.ndim != 2 or name.endswith(EMBEDDINGS):
                continue
            if rank > min(weight.shape):
                raise UserError(
                    f"space_rank is {rank}, but {name} is {list(weight.shape)}; give at most {min(weight.shape)}"
                )
            generator = torch.Generator().manual_seed(hash64("subspace", seed, name) >> 1)
            place, start = self._place(weight, generator)
            self.places[name] = place
            starts.append(start)
            self.length += len(start)
        self.start = torch.cat(starts)

    def _place(self, weight: torch.Tensor, generator: torch.Generator) -> tuple[Place, torch.Tensor]:
        rows, columns = weight.shape
        if self.kind == "lora":
            # B like the rows of a new linear layer: its products with activations are of the activations' size.
            b = torch.randn(columns * self.rank, generator=generator) / math.sqrt(columns)
            return Place(self.length, rows, columns), torch.cat([torch.zeros(rows * self.rank), b])
        if self.kind == "random":
            left, right = (
                torch.linalg.qr(torch.randn(size, self.rank, generator=generator)).Q for size in (rows, columns)
            )
            # The entries of U C V^T have this share of the root mean square of C's: with it, the standard deviation
            # of the vector is that of the matrix's entries, as in a search over all weights.
            scale = math.sqrt(rows * columns) / self.rank
            place = Place(self.length, rows, columns, (scale * left).to(weight.device), right.to(weight.device))
            return place, torch.zeros(self.rank**2)
        u, s, vh = torch.linalg.svd(weight.float(), full_matrices=False)
        place = Place(self.length, rows, columns, u[:, : self.rank] * s[: self.rank], vh[: self.rank].T.contiguous())
        return place, torch.zeros(self.rank)

    def factors(self, name: str, weight: torch.Tensor, vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A [out, rank] and B [in, rank] of one matrix, float32 on the device of `weight`."""
        place, rank = self.places[name], self.rank
        vector = vector.to(weight.device)
        if place.left is None or place.right is None:
            middle, end = place.start + place.rows * rank, place.start + (place.rows + place.columns) * rank
            return vector[place.start : middle].view(place.rows, rank), vector[middle:end].view(place.columns, rank)
        if self.kind == "random":
            core = vector[place.start : place.start + rank**2].view(rank, rank)
            return place.left @ core, place.right
        return place.left * vector[place.start : place.start + rank], place.right

    def delta(self, name: str, weight: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        """The change of one parameter, float32 of `weight`'s shape; zeros for those that stay as they are."""
        if name not in self.places:
            return torch.zeros(weight.shape, device=weight.device)
        a, b = self.factors(name, weight, vector)
        return a @ b.T


@dataclass(frozen=True)
class VectorMember:
    """A vector as an overlay (see `eval.rollout.base.LowRankMember`) on the weights that its space was made for."""

    index: int
    vector: torch.Tensor
    space: Subspace

    @property
    def rank(self) -> int:
        return self.space.rank

    def kind(self, name: str, weight: torch.Tensor) -> Kind:
        return "low_rank" if name in self.space.places else "frozen"

    def factors(self, name: str, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.space.factors(name, weight, self.vector)

    def delta(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        return self.space.delta(name, weight, self.vector)
