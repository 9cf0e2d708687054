"""Deformable DETR (arXiv:2010.04159): four levels; variants in deformable_detr_*.py."""

from detectron2.config import LazyCall as L

from d2_unsupdet.detectors import (
    Criterion,
    DeformableDecoder,
    DeformableDETR,
    DeformableEncoder,
    FocalLoss,
    Heads,
    HungarianAssigner,
    LearnedQueries,
    Neck,
    SinePosition,
    TopPairs,
)

from .detr import channels, detr_resnet
from .resnet import pixel_mean, pixel_std

model = L(DeformableDETR)(
    backbone=detr_resnet(out_features=["res3", "res4", "res5"]),
    in_features="${.backbone.out_features}",
    neck=L(Neck)(
        in_channels=channels("res3", "res4", "res5"),
        dim="${..encoder.dim}",
        levels="${..encoder.levels}",
    ),
    position=L(SinePosition)(dim="${..encoder.dim}", half_cell=True),
    encoder=L(DeformableEncoder)(
        dim=256, heads=8, num_layers=6, ffn_dim=1024, dropout=0.1, levels=4, points=4
    ),
    query_source=L(LearnedQueries)(
        num_queries=300, dim="${..encoder.dim}", content=True, reference="point"
    ),
    decoder=L(DeformableDecoder)(
        dim="${..encoder.dim}",
        heads="${..encoder.heads}",
        num_layers=6,
        ffn_dim="${..encoder.ffn_dim}",
        dropout="${..encoder.dropout}",
        levels="${..encoder.levels}",
        points="${..encoder.points}",
        refine=False,
    ),
    heads=L(Heads)(
        num_classes="auto",
        dim="${..encoder.dim}",
        num_layers="${..decoder.num_layers}",
        shared=True,
        prior=0.01,
        box_start="zero",
        size_bias=-2.0,  # sigmoid: 0.12 of the image's sides
        eps=1e-5,
    ),
    criterion=L(Criterion)(
        classification=L(FocalLoss)(alpha=0.25, gamma=2.0),
        assigner=L(HungarianAssigner)(
            classification="focal", class_cost=2.0, box_cost=5.0, giou_cost=2.0
        ),
        weights=dict(ce=2.0, bbox=5.0, giou=2.0),
    ),
    postprocess=L(TopPairs)(detections=100),
    pixel_mean=pixel_mean,
    pixel_std=pixel_std,
    input_format="RGB",
)
