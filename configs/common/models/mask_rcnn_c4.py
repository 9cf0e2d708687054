"""Mask R-CNN C4: the box model and a mask head on the same res5 features."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead

from d2_unsupdet.detectors.rcnn import stage_channels

from .faster_rcnn_c4 import model

model.roi_heads.mask_head = L(MaskRCNNConvUpsampleHead)(
    input_shape=L(ShapeSpec)(
        channels=L(stage_channels)(depth="${.....backbone.stages.depth}", stage="res5"),
        width="${...pooler.output_size}",
        height="${...pooler.output_size}",
    ),
    num_classes="${..num_classes}",
    conv_dims=[256],
)
