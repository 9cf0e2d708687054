"""Deformable DETR on the coarsest map alone; `model.backbone.stages.dilated=True` is its DC5."""

from .deformable_detr import model
from .detr import channels

model.backbone.out_features = ["res5"]
model.neck.in_channels = channels("res5")
model.encoder.levels = 1
