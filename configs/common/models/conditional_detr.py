"""Conditional DETR (arXiv:2108.06152): DETR with a reference point, and focal loss."""

from detectron2.config import LazyCall as L

from d2_unsupdet.detectors import (
    ConditionalDecoder,
    ConditionalDETR,
    Criterion,
    FocalLoss,
    Heads,
    HungarianAssigner,
    LearnedQueries,
    TopPairs,
)

from .detr import model

model._target_ = ConditionalDETR
model.query_source = L(LearnedQueries)(num_queries=300, dim="${..encoder.dim}", reference="mlp")
model.decoder = L(ConditionalDecoder)(
    dim="${..encoder.dim}",
    heads="${..encoder.heads}",
    num_layers=6,
    ffn_dim="${..encoder.ffn_dim}",
    dropout="${..encoder.dropout}",
)
model.heads = L(Heads)(
    num_classes="auto",
    dim="${..encoder.dim}",
    num_layers="${..decoder.num_layers}",
    prior=0.01,
    box_start="zero",
    eps=1e-5,
)
model.criterion = L(Criterion)(
    classification=L(FocalLoss)(alpha=0.25, gamma=2.0),
    assigner=L(HungarianAssigner)(
        classification="focal", class_cost=2.0, box_cost=5.0, giou_cost=2.0
    ),
    weights=dict(ce=2.0, bbox=5.0, giou=2.0),
)
model.postprocess = L(TopPairs)(detections=100)
