"""From backbone maps to the transformer's levels: one width, and coarser ones where wanted."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from d2_unsupdet.detectors.boxes import full_precision
from d2_unsupdet.errors import UserError

GROUPS = 32


class Level(nn.Module):
    """A convolution and, for the deformable detectors, a group norm."""

    def __init__(self, inputs: int, dim: int, *, kernel: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, dim, kernel, stride=kernel // 2 + 1, padding=kernel // 2)
        self.norm = nn.GroupNorm(GROUPS, dim) if norm else nn.Identity()
        if norm:
            nn.init.xavier_uniform_(self.conv.weight)
            nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """`padding` (B, H, W) at full size keeps what stands there out of the result."""
        if padding is None:
            return self.norm(self.conv(x))
        x = self.conv(x.masked_fill(_mask_like(x, padding), 0))
        return masked_norm(self.norm, x, _mask_like(x, padding))


class Neck(nn.Module):
    """One 1x1 convolution for each map; more levels by 3x3 convolutions of stride 2.

    The first of those reads the last map of the backbone, not its projection.

    Args:
        in_channels: of the backbone's maps, fine to coarse.
        dim: channels of all levels.
        levels: how many there shall be; None for as many as maps.
        norm: a group norm behind each convolution.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        dim: int = 256,
        levels: int | None = None,
        norm: bool = True,
    ) -> None:
        super().__init__()
        levels = len(in_channels) if levels is None else levels
        if norm and dim % GROUPS:
            raise UserError(
                f"The neck norms {GROUPS} groups of channels, dim={dim} is no multiple."
            )
        if levels < len(in_channels):
            raise UserError(
                f"neck.levels={levels} is less than the {len(in_channels)} maps of the backbone: "
                "shorten model.in_features."
            )
        made = [Level(c, dim, kernel=1, norm=norm) for c in in_channels]
        for number in range(levels - len(in_channels)):
            made.append(Level(dim if number else in_channels[-1], dim, kernel=3, norm=norm))
        self.levels = nn.ModuleList(made)

    def forward(self, maps: Sequence[Tensor], padding: Tensor | None = None) -> list[Tensor]:
        result = [level(x, padding) for level, x in zip(self.levels, maps, strict=False)]
        x = maps[-1]
        for level in list(self.levels)[len(maps) :]:
            x = level(x, padding)
            result.append(x)
        return result


def resized_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A (B, H, W) mask at the size of a map, nearest neighbour as in all originals."""
    return F.interpolate(mask[:, None].float(), size=size)[:, 0].bool()


def masked_norm(norm: nn.Module, x: Tensor, padding: Tensor) -> Tensor:
    """A group norm whose statistics are those of the unpadded cells; padding becomes zero."""
    if not isinstance(norm, nn.GroupNorm):
        return norm(x).masked_fill(padding, 0)
    x = full_precision(x)  # fp16 cannot even count the cells of a large map
    grouped = x.unflatten(1, (norm.num_groups, -1)).flatten(2)  # (B, groups, values)
    width = x.shape[1] // norm.num_groups
    weight = (~padding).to(x.dtype).expand(-1, width, -1, -1).flatten(1)[:, None]
    count = weight.sum(-1, keepdim=True).clamp(min=1)
    mean = (grouped * weight).sum(-1, keepdim=True) / count
    variance = ((grouped - mean).square() * weight).sum(-1, keepdim=True) / count
    scaled = ((grouped - mean) * (variance + norm.eps).rsqrt()).view_as(x)
    scaled = scaled * norm.weight[:, None, None] + norm.bias[:, None, None]
    return scaled.masked_fill(padding, 0)


def _mask_like(x: Tensor, padding: Tensor) -> Tensor:
    return resized_mask(padding, (x.shape[-2], x.shape[-1]))[:, None]
