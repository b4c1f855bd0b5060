"""Sinusoidal features of a number: how networks here take the noise level, and fixed position codes."""

import math

import torch
from torch import Tensor, nn


def sinusoids(values: Tensor, width: int, max_period: float) -> Tensor:
    """float32 [..., width]: cosines and sines of `values` with periods from 2 pi to 2 pi max_period, geometric."""
    half = width // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=values.device) / half)
    angles = values.float()[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """float [B] -> float [B, width]: sinusoids and a two-layer perceptron.

    The input is ln(sigma) / 4, which lies in about -1.6 to 1.1, or a share of masked positions in 0 to 1. Times
    `SCALE` it spans about one period of the fastest sinusoid.
    """

    SCALE = 4.0
    FEATURES = 64

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(self.FEATURES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time: Tensor) -> Tensor:
        return self.layers(sinusoids(self.SCALE * time, self.FEATURES, max_period=100.0))


def position_codes(shape: tuple[int, ...], width: int) -> Tensor:
    """float32 [n, width]: fixed sinusoids of unit amplitude, for a grid half of them for rows and half for columns."""
    axes = torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij")
    return torch.cat([sinusoids(axis.flatten(), width // len(shape), max_period=1e4) for axis in axes], dim=-1)
