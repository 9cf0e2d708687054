"""DETA on LVIS v1: COCO's 24 epochs; the paper's schedule for LVIS is not in its code."""

from ...common.data.detr import detr
from ..coco.deta_r50_24ep import lr_multiplier, model, optimizer, train

dataloader = detr("lvis_v1_train", "lvis_v1_val", batch=16)

model.postprocess.detections = 300  # as many as LVIS scores

train.output_dir = "output/finetune/lvis_deta_r50_24ep"
