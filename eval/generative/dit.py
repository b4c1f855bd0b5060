"""A compact diffusion transformer for strings and grids (Peebles and Xie, arXiv:2212.09748, "DiT").

Every position is a token. The time enters by adaLN-zero: shift, scale and gate of each block are linear in ONE time
embedding that all blocks share, and start at zero, so that every block starts as the identity.

The scale of the position codes is an argument, because it decides when a model learns which positions belong together:
with small codes attention starts almost uniform and stays so for long.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention, silu

from eval.generative.embedding import TimeEmbedding, position_codes


class DiT(nn.Module):
    """float [B, n * channels_in] and time float [B] -> float [B, n * channels_out], for n = product of `shape`.

    positions: "learned" (normal with standard deviation `positional_scale` at the start) or "sincos" (fixed sinusoids
    of amplitude `positional_scale`, two-dimensional on grids).
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        channels_in: int,
        channels_out: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        positions: str = "learned",
        positional_scale: float = 1.0,
    ):
        super().__init__()
        count = torch.Size(shape).numel()
        self.count = count
        self.input = nn.Linear(channels_in, width)
        if positions == "learned":
            self.positions = nn.Parameter(positional_scale * torch.randn(count, width))
        else:
            self.register_buffer("positions", positional_scale * position_codes(shape, width))
        self.time = TimeEmbedding(width)
        blocks = [Block(width, heads, round(mlp_ratio * width)) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, channels_out)
        for layer in (self.modulation, self.output, *(block.modulation for block in blocks)):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, y: Tensor, time: Tensor) -> Tensor:
        hidden = self.input(y.unflatten(1, (self.count, -1))) + self.positions
        embedding = silu(self.time(time))
        for block in self.blocks:
            hidden = block(hidden, embedding)
        shift, scale = self.modulation(embedding)[:, None].chunk(2, dim=-1)
        return self.output(modulated_norm(hidden, shift, scale)).flatten(1)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, inner: int):
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.attention = Attention(width, heads)
        self.mlp = MLPLayer(width, inner)

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """hidden float [B, n, width], embedding float [B, width]."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(embedding)[:, None].chunk(6, dim=-1)
        hidden = torch.addcmul(hidden, gate, self.attention(modulated_norm(hidden, shift, scale)))
        return torch.addcmul(hidden, mlp_gate, self.mlp(modulated_norm(hidden, mlp_shift, mlp_scale)))


class Attention(nn.Module):
    """Attention of every position to every position. `project` takes the heads' outputs side by side."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = self.split(self.qkv(hidden))
        mixed = scaled_dot_product_attention(query, key, value)
        return self.project(mixed.transpose(1, 2).flatten(2))

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, each [B, heads, n, width / heads], of the output of `qkv` [B, n, 3 * width]."""
        query, key, value = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value

    def weights(self, hidden: Tensor) -> Tensor:
        """The attention weights [B, heads, n, n] (query, key) for the input of `forward`."""
        query, key, _ = self.split(self.qkv(hidden))
        return torch.softmax(query @ key.transpose(2, 3) / query.shape[-1] ** 0.5, dim=-1)


class MLPLayer(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.rise = nn.Linear(width, inner)
        self.fall = nn.Linear(inner, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.fall(gelu(self.rise(hidden), approximate="tanh"))


def modulated_norm(hidden: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without weights of its own, then (1 + scale) and shift."""
    return torch.addcmul(shift, layer_norm(hidden, hidden.shape[-1:], eps=1e-6), 1 + scale)
