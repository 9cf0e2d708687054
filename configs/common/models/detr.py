"""DETR (arXiv:2005.12872): one level, dense attention, softmax with a background class."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem

from d2_unsupdet.detectors import (
    DETR,
    BestClass,
    Criterion,
    DenseDecoder,
    DenseEncoder,
    DetrResNet,
    Heads,
    HungarianAssigner,
    LearnedQueries,
    Neck,
    SinePosition,
    SoftmaxLoss,
)
from d2_unsupdet.detectors.backbone import detr_stages
from d2_unsupdet.detectors.rcnn import stage_channels

from .resnet import pixel_mean, pixel_std


def detr_resnet(*, out_features, depth=50):
    """Frozen norms, stem and res2, as all of the family train. `stages.dilated=True` is DC5."""
    return L(DetrResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
        stages=L(detr_stages)(depth=depth, norm="${..stem.norm}", dilated=False),
        out_features=out_features,
        freeze_at=2,
        mask_padding=False,
    )


def channels(*stages):
    """Of the backbone's maps, so that a config states the depth once."""
    depth = "${....backbone.stages.depth}"
    return [L(stage_channels)(depth=depth, stage=stage) for stage in stages]


# The widths stand once, in the encoder: `model.encoder.dim=128` rules the whole model.
model = L(DETR)(
    backbone=detr_resnet(out_features=["res5"]),
    in_features="${.backbone.out_features}",
    neck=L(Neck)(in_channels=channels("res5"), dim="${..encoder.dim}", norm=False),
    position=L(SinePosition)(dim="${..encoder.dim}"),
    encoder=L(DenseEncoder)(
        dim=256, heads=8, num_layers=6, ffn_dim=2048, dropout=0.1, pre_norm=False
    ),
    query_source=L(LearnedQueries)(num_queries=100, dim="${..encoder.dim}"),
    decoder=L(DenseDecoder)(
        dim="${..encoder.dim}",
        heads="${..encoder.heads}",
        num_layers=6,
        ffn_dim="${..encoder.ffn_dim}",
        dropout="${..encoder.dropout}",
        pre_norm="${..encoder.pre_norm}",
    ),
    heads=L(Heads)(
        num_classes="auto",
        dim="${..encoder.dim}",
        num_layers="${..decoder.num_layers}",
        background=True,
        prior=None,
        box_start="default",
    ),
    criterion=L(Criterion)(
        classification=L(SoftmaxLoss)(no_object=0.1),
        assigner=L(HungarianAssigner)(
            classification="softmax", class_cost=1.0, box_cost=5.0, giou_cost=2.0
        ),
        weights=dict(ce=1.0, bbox=5.0, giou=2.0),
    ),
    postprocess=L(BestClass)(),
    pixel_mean=pixel_mean,
    pixel_std=pixel_std,
    input_format="RGB",
)
