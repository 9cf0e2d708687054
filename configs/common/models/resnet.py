"""ResNet in the torchvision layout, for RGB images in 0-255."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet

pixel_mean = [123.675, 116.280, 103.530]
pixel_std = [58.395, 57.120, 57.375]


def resnet(*, out_features, norm, depth=50):
    """Nothing frozen. The blocks' default, stride in the 3x3 convolution, is torchvision's."""
    return L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm=norm),
        stages=L(ResNet.make_default_stages)(depth=depth, norm="${..stem.norm}"),
        out_features=out_features,
        freeze_at=0,
    )
