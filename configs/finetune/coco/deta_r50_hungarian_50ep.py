"""DETA's baseline, "improved Deformable DETR": the same network, one query for each object."""

from detectron2.config import LazyCall as L

from d2_unsupdet.detectors import HungarianAssigner, TopPairs, TopTokens

from ...common.schedule import multistep
from .deta_r50_12ep import dataloader, model, optimizer, train

model.proposals.select = L(TopTokens)()
model.criterion.assigner = L(HungarianAssigner)(
    classification="focal", class_cost=2.0, box_cost=5.0, giou_cost=2.0
)
model.criterion.encoder_assigner = None  # the same
model.postprocess = L(TopPairs)(detections=100)

lr_multiplier = multistep([40], total=50)

train.max_iter = "50 epochs"
train.eval_period = "5 epochs"
train.output_dir = "output/finetune/deta_r50_hungarian_50ep"
