"""Semantic segmentation as MoCo transfers to it (arXiv:1911.05722, appendix): a dilated FCN.

A ResNet whose last stage keeps its resolution, two dilated 3x3 convolutions, a 1x1 classifier.
Strided convolutions centre cell i on pixel stride * i, so that logits are enlarged from there, not
as if a cell were centred in its square.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.modeling.backbone.resnet import CNNBlockBase, ResNet
from detectron2.utils import comm
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from d2_unsupdet.errors import UserError


def dilated_stages(*, depth: int, norm: str, last: int = 1) -> list[list[CNNBlockBase]]:
    """The stages of a ResNet of which the `last` ones keep their resolution, see `dilate`."""
    if depth not in (18, 34, 50, 101, 152):
        raise UserError(f"There is no ResNet-{depth}: choose depth 18, 34, 50, 101 or 152.")
    return dilate(ResNet.make_default_stages(depth, norm=norm), last=last)


def dilate(stages: Sequence[Sequence[CNNBlockBase]], *, last: int = 1) -> list[list[CNNBlockBase]]:
    """Take the stride out of the `last` stages and dilate their 3x3 convolutions instead.

    The weights are those of the ResNet as it was. All 3x3 of res5 get dilation 2, as MoCo's recipe
    says (DETR's DC5 leaves the first one); with `last` 2 those of res4 2 and those of res5 4.
    """
    if not 0 <= last < len(stages):
        raise UserError(f"last={last} stages cannot be dilated: the ResNet has {len(stages)}.")
    for number, blocks in enumerate(stages[len(stages) - last :]):
        for block in blocks:
            block.stride = 1
            for module in block.modules():
                if isinstance(module, nn.Conv2d):
                    module.stride = (1, 1)
                    if module.kernel_size == (3, 3):
                        module.dilation = module.padding = (2 ** (number + 1),) * 2
    return [list(blocks) for blocks in stages]


@SEM_SEG_HEADS_REGISTRY.register()
class DilatedFCNHead(nn.Module):
    """Two 3x3 convolutions with norm and ReLU, and a 1x1 classifier, on one feature map.

    In a LazyConfig the head of Detectron2's `SemanticSegmentor`::

        sem_seg_head=L(DilatedFCNHead)(in_channels=2048, num_classes="auto", norm="SyncBN")

    and in YAML `MODEL.SEM_SEG_HEAD.NAME: DilatedFCNHead` with IN_FEATURES, CONVS_DIM, NORM,
    NUM_CLASSES, IGNORE_VALUE and LOSS_WEIGHT.

    Args:
        in_channels: of the feature map.
        num_classes: of the data set.
        in_feature: the backbone's map to look at.
        stride: pixels from one of its cells to the next.
        channels: of the two convolutions.
        dilation: of the two convolutions, in cells.
        norm: behind each of them.
        ignore_value: the label that is no class; padding has it too.
        loss_weight: factor on the loss.
        class_weights: of the pixels of the first classes in the loss, where those show far more
            than others; a class without one has 1. None counts every pixel alike.
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        in_feature: str = "res5",
        stride: int = 16,
        channels: int = 256,
        dilation: int = 6,
        norm: str = "BN",
        ignore_value: int = 255,
        loss_weight: float = 1.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        weights = None
        if class_weights is not None:
            given = [float(weight) for weight in class_weights]
            every = given + [1.0] * (num_classes - len(given))
            if len(every) != num_classes or min(every) < 0 or not any(every):
                raise UserError(
                    f"class_weights={given}: give one weight, 0 or more, for each of the "
                    f"{num_classes} classes or the first of them, or null for all alike."
                )
            weights = torch.tensor(every)
        # A setting, not a part of the checkpoint.
        self.register_buffer("class_weights", weights, persistent=False)
        self.class_weights: Tensor | None
        self.in_feature, self.stride = in_feature, stride
        self.num_classes = num_classes
        self.ignore_value, self.loss_weight = ignore_value, loss_weight
        self.alone = False  # for a while: losses of one process, while the others do something else
        widths = (in_channels, channels, channels)
        self.convs = nn.Sequential(
            *(
                Conv2d(
                    widths[i],
                    channels,
                    kernel_size=3,
                    padding=dilation,
                    dilation=dilation,
                    bias=not norm,
                    norm=get_norm(norm, channels),
                    activation=F.relu,
                )
                for i in range(2)
            )
        )
        self.predictor = nn.Conv2d(channels, num_classes, kernel_size=1)
        assert self.predictor.bias is not None
        for layer in self.convs:
            weight_init.c2_msra_fill(layer)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        keys = cfg.MODEL.SEM_SEG_HEAD
        names = list(keys.IN_FEATURES)
        if len(names) != 1 or names[0] not in input_shape:
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES={names} must name one map of the backbone, which "
                f"gives {', '.join(input_shape)}."
            )
        return {
            "in_channels": input_shape[names[0]].channels,
            "num_classes": keys.NUM_CLASSES,
            "in_feature": names[0],
            "stride": input_shape[names[0]].stride,
            "channels": keys.CONVS_DIM,
            "norm": keys.NORM,
            "ignore_value": keys.IGNORE_VALUE,
            "loss_weight": keys.LOSS_WEIGHT,
        }

    def forward(
        self, features: Mapping[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """In training (None, losses); else logits of every pixel that the map covers, and {}."""
        logits = self.predictor(self.convs(features[self.in_feature])).float()
        logits = enlarged(logits, self.stride)
        if not self.training:
            return logits, {}
        assert targets is not None
        return None, {"loss_sem_seg": self.loss_weight * self.loss(logits, targets)}

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, a mean over the labelled pixels of the whole batch, of all processes.

        `alone`, of this one. With class weights a weighted mean.
        """
        labels = targets.long()  # they come as bytes
        labelled = labels != self.ignore_value
        height, width = labels.shape[-2:]
        total = F.cross_entropy(
            logits[..., :height, :width],
            labels,
            weight=self.class_weights,
            ignore_index=self.ignore_value,
            reduction="sum",
        )
        if self.class_weights is None:
            count = labelled.sum().to(total.dtype)
            least = 1.0
        else:
            count = (self.class_weights[labels.where(labelled, 0)] * labelled).sum()
            least = torch.finfo(count.dtype).tiny  # weights may be small; the sum of none is 0
        # Gradients are averaged over the processes.
        if comm.get_world_size() > 1 and not self.alone:
            dist.all_reduce(count)
            count = count / comm.get_world_size()
        return total / count.clamp(min=least)


def enlarged(maps: Tensor, stride: int) -> Tensor:
    """Bilinear between the cells' centres, pixels stride * i; beyond the last one its value.

    Args:
        maps: (B, C, H, W), of a network of strided convolutions.
        stride: its stride.

    Returns: (B, C, stride * H, stride * W); images of other sizes are cut from its corner.
    """
    height, width = maps.shape[-2:]
    between = (stride * (height - 1) + 1, stride * (width - 1) + 1)
    pixels = F.interpolate(maps, size=between, mode="bilinear", align_corners=True)
    return F.pad(pixels, (0, stride - 1, 0, stride - 1), mode="replicate")
