"""A residual perceptron as denoising network."""

import torch
from torch import Tensor, nn

from eval.generative.embedding import TimeEmbedding


class MLP(nn.Module):
    """float [B, D] and time float [B] -> float [B, D]; `depth` residual blocks of `width`."""

    def __init__(self, dimension: int, width: int, depth: int, mlp_ratio: float = 2.0):
        super().__init__()
        self.input = nn.Linear(dimension, width)
        self.time = TimeEmbedding(width)
        self.blocks = nn.ModuleList(_Block(width, round(mlp_ratio * width)) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, dimension)
        # Preconditioning makes the zero function a good start.
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, y: Tensor, time: Tensor) -> Tensor:
        embedding = self.time(time)
        hidden = self.input(y)
        for block in self.blocks:
            hidden = block(hidden, embedding)
        return self.output(self.norm(hidden))


class _Block(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.rise = nn.Linear(width, inner)
        self.fall = nn.Linear(inner, width)
        self.time = nn.Linear(width, inner)

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        inner = self.rise(self.norm(hidden)) + self.time(embedding)
        return hidden + self.fall(torch.nn.functional.silu(inner))
