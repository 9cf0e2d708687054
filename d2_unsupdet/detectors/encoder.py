"""Transformer encoders: dense on one level (DETR) and deformable on several (arXiv:2010.04159)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from d2_unsupdet.detectors.attention import MultiHeadAttention
from d2_unsupdet.detectors.boxes import full_precision
from d2_unsupdet.detectors.deformable_attention import DeformableAttention
from d2_unsupdet.detectors.layers import FeedForward, xavier
from d2_unsupdet.detectors.structures import Encoded
from d2_unsupdet.detectors.transfer import to_device
from d2_unsupdet.errors import UserError


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward block, each with a residual and a norm."""

    def __init__(
        self,
        *,
        self_attn: nn.Module,
        dim: int,
        ffn_dim: int,
        dropout: float,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        self.self_attn = self_attn
        self.ffn = FeedForward(dim=dim, width=ffn_dim, dropout=dropout)
        self.norm_self, self.norm_ffn = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.pre_norm = pre_norm

    def forward(self, x: Tensor, encoded: Encoded, reference: Tensor | None) -> Tensor:
        if self.pre_norm:
            x = x + self.dropout(self._attend(self.norm_self(x), encoded, reference))
            return x + self.dropout(self.ffn(self.norm_ffn(x)))
        x = self.norm_self(x + self.dropout(self._attend(x, encoded, reference)))
        return self.norm_ffn(x + self.dropout(self.ffn(x)))

    def _attend(self, x: Tensor, encoded: Encoded, reference: Tensor | None) -> Tensor:
        placed = x + encoded.position
        if isinstance(self.self_attn, DeformableAttention):
            assert reference is not None
            return self.self_attn(placed, reference, x, encoded.shapes, encoded.mask)
        assert isinstance(self.self_attn, MultiHeadAttention)
        return self.self_attn.mix(placed, placed, x, padding=encoded.mask)


class Encoder(nn.Module):
    """Layers over the tokens of all levels.

    Args:
        layers: of the encoder; none is an encoder that passes its input on.
        dim: channels.
        pre_norm: a norm behind the last layer.
        levels: feature levels, told apart by a learned vector each; None for one without.
    """

    def __init__(
        self,
        *,
        layers: Sequence[EncoderLayer],
        dim: int,
        pre_norm: bool = False,
        levels: int | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim) if pre_norm else nn.Identity()
        self.level_embed = None if levels is None else nn.Parameter(torch.empty(levels, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        xavier(self)
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.reset_parameters()
        if self.level_embed is not None:
            nn.init.normal_(self.level_embed)

    def forward(
        self, maps: Sequence[Tensor], masks: Sequence[Tensor], positions: Sequence[Tensor]
    ) -> Encoded:
        """Maps (B, C, H_l, W_l), masks (B, H_l, W_l) and positions (B, H_l * W_l, C)."""
        if self.level_embed is not None:
            if len(maps) != len(self.level_embed):
                raise UserError(
                    f"The encoder was made for {len(self.level_embed)} levels, the neck gives "
                    f"{len(maps)}: set model.encoder.levels and model.neck.levels to one number."
                )
            positions = [p + e for p, e in zip(positions, self.level_embed, strict=True)]
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        shapes = [(int(m.shape[-2]), int(m.shape[-1])) for m in maps]
        exact = full_precision(x).dtype
        encoded = Encoded(
            memory=x,
            mask=torch.cat([mask.flatten(1) for mask in masks], dim=1),
            position=torch.cat(list(positions), dim=1).to(x.dtype),
            shapes=shapes,
            valid_ratios=torch.stack([valid_ratio(mask, exact) for mask in masks], dim=1),
        )
        reference = None
        if self.level_embed is not None:
            centres = token_centres(shapes, encoded.valid_ratios)
            reference = centres[:, :, None] * encoded.valid_ratios[:, None]
        for layer in self.layers:
            x = layer(x, encoded, reference)
        return replace(encoded, memory=self.norm(x))


class DenseEncoder(Encoder):
    """DETR's encoder: every token sees every other.

    Args:
        dim: channels.
        heads: attention heads.
        num_layers: of the encoder.
        ffn_dim: width of the feed-forward blocks.
        dropout: of attention weights, residual branches and feed-forward blocks.
        pre_norm: norms before the blocks instead of behind them.
    """

    def __init__(
        self,
        *,
        dim: int = 256,
        heads: int = 8,
        num_layers: int = 6,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        pre_norm: bool = False,
    ) -> None:
        layers = [
            EncoderLayer(
                self_attn=MultiHeadAttention(dim=dim, heads=heads, dropout=dropout),
                dim=dim,
                ffn_dim=ffn_dim,
                dropout=dropout,
                pre_norm=pre_norm,
            )
            for _ in range(num_layers)
        ]
        super().__init__(layers=layers, dim=dim, pre_norm=pre_norm)


class DeformableEncoder(Encoder):
    """Every token reads a few points of every level.

    Args:
        dim: channels.
        heads: attention heads.
        num_layers: of the encoder.
        ffn_dim: width of the feed-forward blocks.
        dropout: of residual branches and feed-forward blocks.
        levels: feature levels.
        points: that a head reads on each level.
    """

    def __init__(
        self,
        *,
        dim: int = 256,
        heads: int = 8,
        num_layers: int = 6,
        ffn_dim: int = 1024,
        dropout: float = 0.1,
        levels: int = 4,
        points: int = 4,
    ) -> None:
        layers = [
            EncoderLayer(
                self_attn=DeformableAttention(dim=dim, heads=heads, levels=levels, points=points),
                dim=dim,
                ffn_dim=ffn_dim,
                dropout=dropout,
            )
            for _ in range(num_layers)
        ]
        super().__init__(layers=layers, dim=dim, levels=levels)


def valid_ratio(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, H, W) to (B, 2): shares of the width and the height that are no padding."""
    height, width = mask.shape[1:]
    return torch.stack(
        [(~mask[:, 0]).sum(1).to(dtype) / width, (~mask[:, :, 0]).sum(1).to(dtype) / height], dim=-1
    )


def token_centres(shapes: Sequence[tuple[int, int]], valid_ratios: Tensor) -> Tensor:
    """(B, S, 2): centre of each token, normalised by the unpadded part of its level."""
    centres = []
    for level, (height, width) in enumerate(shapes):
        grid = torch.stack(
            [
                (torch.arange(width, device=valid_ratios.device) + 0.5).expand(height, -1),
                (torch.arange(height, device=valid_ratios.device) + 0.5)[:, None].expand(-1, width),
            ],
            dim=-1,
        )
        size = valid_ratios[:, level] * to_device([width, height], valid_ratios.device)
        centres.append(grid.flatten(0, 1).to(valid_ratios.dtype) / size[:, None])
    return torch.cat(centres, dim=1)
