"""PiCIE's decoder (Cho et al., arXiv:2103.17070): an FPN with 1x1 convolutions and nothing else.

Unlike Detectron2's FPN it has no 3x3 smoothing, upsamples bilinearly and returns one map.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from d2_unsupdet.errors import UserError


class FPNDecoder(nn.Module):
    """Every level through a 1x1 convolution, added from coarse to fine.

    ::

        decoder = FPNDecoder(input_shape=backbone.output_shape(), channels=128)
        decoder(backbone(images))  # (batch, 128, h / 4, w / 4) of a ResNet's res2 .. res5

    Args:
        input_shape: Detectron2's description of the maps, by level.
        channels: of the result.
    """

    def __init__(self, *, input_shape: Mapping[str, ShapeSpec], channels: int = 128) -> None:
        super().__init__()
        if not input_shape:
            raise UserError("The decoder got no feature map; set the backbone's out_features.")
        strides = {level: shape.stride or 0 for level, shape in input_shape.items()}
        self.levels = sorted(strides, key=lambda level: -strides[level])  # the coarsest first
        self.channels, self.stride = channels, strides[self.levels[-1]]
        self.lateral = nn.ModuleDict(
            {level: nn.Conv2d(input_shape[level].channels or 0, channels, 1) for level in strides}
        )

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """The finest level's map, (batch, channels, h, w)."""
        coarsest, *finer = self.levels
        x = self.lateral[coarsest](features[coarsest])
        for level in finer:
            y = self.lateral[level](features[level])
            size = y.shape[-2:]
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False) + y
        return x
