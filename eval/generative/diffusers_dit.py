"""The diffusion transformer of the diffusers library as denoising network, for square grids of bits or symbols."""

from typing import Any

import torch
from torch import Tensor, nn

from eval.errors import UserError


class DiffusersDiT(nn.Module):
    """`diffusers.DiTTransformer2DModel` with the interface of `eval.generative.dit.DiT`.

    Its sinusoids expect timesteps from 0 to 1000, so time (ln(sigma) / 4) is scaled. Every block owns a time and a
    label embedding there; the label is always 0. Like the released DiT, blocks and output start at zero. Raises
    `UserError` if diffusers is missing or the shape is no square.
    """

    TIME_OFFSET, TIME_SCALE = 2.0, 250.0

    def __init__(self, shape: tuple[int, ...], channels: int, width: int, depth: int, heads: int):
        super().__init__()
        try:
            from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
        except ImportError as error:
            raise UserError(
                "model diffusers_dit needs the diffusers library; install it with: pip install -e '.[generative]'"
            ) from error
        if len(shape) != 2 or shape[0] != shape[1]:
            raise UserError(f"model diffusers_dit generates square grids, not {shape}; use a grid rule, or model dit")
        self.shape, self.channels = shape, channels
        self.model = DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            in_channels=channels,
            out_channels=channels,
            num_layers=depth,
            sample_size=shape[0],
            patch_size=1,
            num_embeds_ada_norm=1,
            norm_type="ada_norm_zero",
        )
        blocks: Any = self.model.transformer_blocks
        for layer in (*(block.norm1.linear for block in blocks), self.model.proj_out_2):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for block in blocks:
            # It would drop labels at random, from the global generator, in training.
            block.norm1.emb.class_embedder.dropout_prob = 0.0

    def forward(self, y: Tensor, time: Tensor) -> Tensor:
        grid = y.unflatten(1, (*self.shape, self.channels)).permute(0, 3, 1, 2)
        labels = torch.zeros(len(y), dtype=torch.long, device=y.device)
        timestep = self.TIME_SCALE * (time + self.TIME_OFFSET)
        output = self.model(grid, timestep=timestep, class_labels=labels).sample
        return output.permute(0, 2, 3, 1).flatten(1)
