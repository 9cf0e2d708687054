"""Embeddings of image crops from a frozen backbone: what a box pretext must predict."""

import copy
from collections.abc import Sequence

import torch
from detectron2.modeling.backbone import Backbone, ResNet
from torch import Tensor, nn

from d2_unsupdet.detectors.backbone import DetrResNet
from d2_unsupdet.pretext.backbones import level_channels

CROPS = 256  # encoded at a time: res2 of 256 crops of 128 pixels takes 0.27 GB in fp32


class Teacher(nn.Module):
    """A frozen copy of a backbone that nothing trains, whatever its parent does.

    Its buffer `chosen` says whether the weights are those that training starts from; a checkpoint
    holds both.

    Args:
        backbone: is copied.
    """

    chosen: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone)
        self.register_buffer("chosen", torch.tensor(False))
        self.requires_grad_(False).eval()

    def adopt(self, backbone: Backbone) -> None:
        """Take over its weights, for good."""
        self.backbone.load_state_dict(backbone.state_dict())
        self.chosen.fill_(True)

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)


def is_frozen(backbone: Backbone) -> bool:
    """Whether no parameter trains and no statistics move."""
    moving = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in backbone.modules())
    return not moving and not any(p.requires_grad for p in backbone.parameters())


def embedding_width(backbone: Backbone, levels: Sequence[str]) -> int:
    """Channels of all levels together."""
    if not isinstance(backbone, ResNet):
        return sum(level_channels(backbone, level) for level in levels)
    widths = dict(zip(backbone.stage_names, backbone.stages, strict=True))
    # level_channels knows how to say which outputs there are
    return sum(
        widths[m][-1].out_channels if m in widths else level_channels(backbone, m) for m in levels
    )


@torch.no_grad()
def embed_crops(backbone: Backbone, crops: Tensor, levels: Sequence[str]) -> Tensor:
    """Normalised crops (n, 3, s, s) to the spatial means of the levels, side by side: (n, C)."""
    parts = [_means(backbone, part, levels) for part in crops.split(CROPS)]
    return torch.cat(parts) if parts else crops.new_zeros(0, embedding_width(backbone, levels))


def _means(backbone: Backbone, crops: Tensor, levels: Sequence[str]) -> Tensor:
    maps = (
        _resnet_maps(backbone, crops, levels) if isinstance(backbone, ResNet) else backbone(crops)
    )
    return torch.cat([maps[level].mean(dim=(2, 3)) for level in levels], dim=1)


def _resnet_maps(backbone: ResNet, crops: Tensor, levels: Sequence[str]) -> dict[str, Tensor]:
    """No deeper than the last level: res3 costs half of a ResNet-50."""
    if isinstance(backbone, DetrResNet):
        backbone.expect(crops)
    maps, x = {}, backbone.stem(crops)
    for name, stage in zip(backbone.stage_names, backbone.stages, strict=True):
        x = stage(x)
        maps[name] = x
        if set(levels) <= maps.keys():
            break
    return maps
