"""The C4 head of MoCo's transfer protocol (arXiv:1911.05722, A.1): res5 with one more norm layer.

Self-supervised features have large, shifted statistics; the added norm brings the box features to
the scale the predictor is tuned for. No checkpoint holds its parameters: they are expected missing.
"""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import get_norm
from detectron2.modeling.backbone.resnet import CNNBlockBase, ResNet
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads
from torch import nn

STAGES = ("res2", "res3", "res4", "res5")


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """Detectron2's `Res5ROIHeads` with a norm layer, `res5.norm`, behind the last block.

    In a LazyConfig::

        roi_heads=L(Res5ROIHeadsExtraNorm)(
            res5=L(res5_stage)(depth=50, norm="SyncBN"), norm="SyncBN", ...
        )

    and in YAML `MODEL.ROI_HEADS.NAME: Res5ROIHeadsExtraNorm` (the norm is MODEL.RESNETS.NORM).

    Args:
        res5: the residual blocks.
        norm: kind of the added layer, normally that of the blocks.
        others: as for `Res5ROIHeads`.
    """

    @configurable
    def __init__(self, *, res5: Sequence[CNNBlockBase], norm: str, **others: Any) -> None:
        blocks = nn.Sequential(*res5)
        blocks.add_module("norm", get_norm(norm, blocks[-1].out_channels))
        super().__init__(res5=blocks, **others)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Any) -> dict[str, Any]:
        arguments = super().from_config(cfg, input_shape)
        arguments["norm"] = cfg.MODEL.RESNETS.NORM
        # Detectron2 builds bottlenecks at any depth; the weights of a ResNet-18 would not fit them.
        if cfg.MODEL.RESNETS.DEPTH < 50:
            arguments["res5"] = res5_stage(depth=cfg.MODEL.RESNETS.DEPTH, norm=arguments["norm"])
        return arguments


def res5_stage(*, depth: int, norm: str) -> list[CNNBlockBase]:
    """The blocks of the last stage of a ResNet of this depth, as it would stand in the backbone."""
    return ResNet.make_default_stages(depth, norm=norm)[-1]


def stage_channels(*, depth: int, stage: str) -> int:
    """Output channels of "res2".."res5", so that a config states the depth once."""
    widest = 512 if depth < 50 else 2048
    return widest >> (len(STAGES) - 1 - STAGES.index(stage))
