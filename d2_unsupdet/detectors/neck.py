"""From backbone maps to the transformer's levels: one width, and coarser ones where wanted."""

from collections.abc import Sequence

from torch import Tensor, nn

from d2_unsupdet.errors import UserError


class Level(nn.Module):
    """A convolution and, for the deformable detectors, a group norm."""

    def __init__(self, inputs: int, dim: int, *, kernel: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, dim, kernel, stride=kernel // 2 + 1, padding=kernel // 2)
        self.norm = nn.GroupNorm(32, dim) if norm else nn.Identity()
        if norm:
            nn.init.xavier_uniform_(self.conv.weight)
            nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


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
        if levels < len(in_channels):
            raise UserError(
                f"neck.levels={levels} is less than the {len(in_channels)} maps of the backbone: "
                "shorten model.in_features."
            )
        made = [Level(c, dim, kernel=1, norm=norm) for c in in_channels]
        for number in range(levels - len(in_channels)):
            made.append(Level(dim if number else in_channels[-1], dim, kernel=3, norm=norm))
        self.levels = nn.ModuleList(made)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        result = [level(x) for level, x in zip(self.levels, maps, strict=False)]
        x = maps[-1]
        for level in list(self.levels)[len(maps) :]:
            x = level(x)
            result.append(x)
        return result
