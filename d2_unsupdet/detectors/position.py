"""Sine encodings of maps and of coordinates: half of the channels for y, half for x."""

import math

import torch
from torch import Tensor, nn

from d2_unsupdet.errors import UserError


def sine_embedding(values: Tensor, *, dim: int = 128, temperature: float = 10000) -> Tensor:
    """`dim` channels for each number of the last axis: (..., k) in 0..1 to (..., k * dim)."""
    octaves = torch.arange(dim // 2, device=values.device, dtype=torch.float32)
    frequency = 2 * math.pi / temperature ** (2 * octaves / dim)
    phase = values[..., None] * frequency.to(values.dtype)
    return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(-3)


class SinePosition(nn.Module):
    """Where a cell stands in the unpadded part of its map.

    >>> SinePosition(dim=256)(mask)    # (B, H, W) True on padding -> (B, H * W, 256)

    Args:
        dim: channels, y first.
        half_cell: count from cell centres, as the deformable detectors do; DETR and Conditional
            DETR count cells, so that the first one stands at 1 / width.
        temperature: ratio of the slowest and the fastest wave.
    """

    def __init__(
        self, *, dim: int = 256, half_cell: bool = False, temperature: float = 10000
    ) -> None:
        super().__init__()
        if dim % 4:
            raise UserError(f"SinePosition needs dim divisible by 4, not {dim}.")
        self.dim, self.temperature = dim, temperature
        self.shift = 0.5 if half_cell else 0.0

    def forward(self, mask: Tensor) -> Tensor:
        valid = (~mask).float()
        places = []
        for axis in (1, 2):
            count = valid.cumsum(axis)
            places.append((count - self.shift) / (count.select(axis, -1).unsqueeze(axis) + 1e-6))
        embedded = sine_embedding(
            torch.stack(places, dim=-1), dim=self.dim // 2, temperature=self.temperature
        )
        return embedded.flatten(1, 2)


class LearnedPosition(nn.Module):
    """A learned vector for each row and column, x first: DETR's alternative.

    Args:
        dim: channels.
        size: most rows and columns.
    """

    def __init__(self, *, dim: int = 256, size: int = 50) -> None:
        super().__init__()
        self.row_embed = nn.Embedding(size, dim // 2)
        self.col_embed = nn.Embedding(size, dim // 2)
        for embedding in (self.row_embed, self.col_embed):
            nn.init.uniform_(embedding.weight)

    def forward(self, mask: Tensor) -> Tensor:
        batch, height, width = mask.shape
        size = self.row_embed.num_embeddings
        if max(height, width) > size:
            raise UserError(
                f"LearnedPosition knows {size} rows and columns, the map has {height}x{width}: "
                "raise its size, or use SinePosition."
            )
        x = self.col_embed.weight[:width].expand(height, -1, -1)
        y = self.row_embed.weight[:height, None].expand(-1, width, -1)
        return torch.cat([x, y], dim=-1).flatten(0, 1).expand(batch, -1, -1)
