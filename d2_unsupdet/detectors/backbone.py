"""ResNets as DETR-style detectors want them: dilated last stage, and padding that stays silent."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import (
    BottleneckBlock,
    CNNBlockBase,
    ResNet,
    build_resnet_backbone,
)
from torch import Tensor, nn

from d2_unsupdet.detectors.transfer import to_device
from d2_unsupdet.errors import UserError


def detr_stages(*, depth: int, norm: str, dilated: bool = False) -> list[list[CNNBlockBase]]:
    """The stages of a ResNet; `dilated` is DC5: res5 at stride 16, dilations (1, 2, 2).

    Detectron2's own RES5_DILATION=2 dilates the first block too, which does not fit the weights.
    """
    if depth not in (18, 34, 50, 101, 152):
        raise UserError(f"There is no ResNet-{depth}: choose depth 18, 34, 50, 101 or 152.")
    stages = ResNet.make_default_stages(depth, norm=norm)
    if not dilated:
        return stages
    if depth < 50:
        raise UserError(f"DC5 needs a ResNet with bottlenecks (50 or 101), not depth {depth}.")
    stages[-1] = ResNet.make_stage(
        BottleneckBlock,
        3,
        in_channels=1024,
        out_channels=2048,
        bottleneck_channels=512,
        norm=norm,
        stride_per_block=[1, 1, 1],
        dilation_per_block=[1, 2, 2],
    )
    return stages


class DetrResNet(ResNet):
    """Detectron2's ResNet that can keep the padding of a batch at zero.

    Biases and norms write into the padding, and 3x3 convolutions carry that over the border of a
    smaller image: its features then depend on its neighbours in the batch.

    Args:
        mask_padding: set the padding to zero before every convolution and pooling that looks around
            itself.
        others: as for `ResNet`.
    """

    def __init__(self, *, mask_padding: bool = False, **others: Any) -> None:
        super().__init__(**others)
        self.mask_padding = mask_padding
        self._full: tuple[int, int] = (0, 0)
        self._extent: tuple[Tensor, ...] = ()  # heights and widths of the images
        self._valid: dict[tuple[int, int], Tensor] = {}
        if mask_padding:
            for module in self.modules():
                if isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1:
                    module.register_forward_pre_hook(self._silence)
            for module in self.stem.modules():  # the pooling behind it looks around itself too
                if isinstance(module, nn.Conv2d):
                    module.register_forward_hook(self._silence_output)

    def forward(
        self, x: Tensor, sizes: Sequence[tuple[int, int]] | None = None
    ) -> dict[str, Tensor]:
        """`sizes` (h, w) of the images in the padded batch."""
        self.expect(x, sizes)
        return super().forward(x)

    def expect(self, x: Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> None:
        """The next batch that goes through stem and stages; without sizes it has no padding."""
        if self.mask_padding:
            self._full, self._valid = (x.shape[-2], x.shape[-1]), {}
            sizes = [self._full] * len(x) if sizes is None else sizes
            self._extent = to_device(sizes, x.device, torch.int64).unbind(1)

    def _silence(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (self._silent(inputs[0]),)

    def _silence_output(self, module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return self._silent(out)

    def _silent(self, x: Tensor) -> Tensor:
        """Padding to zero; the mask of each map size is made once a forward."""
        size = (x.shape[-2], x.shape[-1])
        if size not in self._valid:
            rows, columns = (
                torch.arange(cells, device=x.device) * _stride(full, cells) < extent[:, None]
                for cells, full, extent in zip(size, self._full, self._extent, strict=True)
            )
            self._valid[size] = (rows[:, :, None] & columns[:, None])[:, None]
        return x * self._valid[size]


def _stride(full: int, cells: int) -> int:
    """The power of two by which `full` pixels, rounded up, became `cells`."""
    return 2 ** math.ceil(math.log2(full / cells))


@BACKBONE_REGISTRY.register()
def build_detr_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DetrResNet:
    """Detectron2's ResNet from the usual keys; RES5_DILATION 2 is DC5 as DETR's weights want it."""
    keys = cfg.MODEL.RESNETS
    dilated = keys.RES5_DILATION == 2
    if dilated and (keys.NUM_GROUPS, keys.WIDTH_PER_GROUP) != (1, 64):
        raise UserError(
            f"DC5 is not built for MODEL.RESNETS.NUM_GROUPS={keys.NUM_GROUPS} and WIDTH_PER_GROUP="
            f"{keys.WIDTH_PER_GROUP}: take 1 and 64, or RES5_DILATION 1."
        )
    undilated = cfg.clone()
    undilated.defrost()
    undilated.MODEL.RESNETS.RES5_DILATION = 1
    plain = build_resnet_backbone(undilated, input_shape)
    stages = [list(stage) for stage in plain.stages]
    if dilated and "res5" in keys.OUT_FEATURES:
        stages[-1] = detr_stages(depth=keys.DEPTH, norm=keys.NORM, dilated=True)[-1]
    return DetrResNet(
        stem=plain.stem,
        stages=stages,
        out_features=keys.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        mask_padding=cfg.MODEL.DETR.MASK_PADDING,
    )
