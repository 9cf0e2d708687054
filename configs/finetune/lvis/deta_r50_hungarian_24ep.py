"""As deta_r50_24ep.py, one query for each object: the baseline of DETA's table."""

from ..coco.deta_r50_hungarian_50ep import model
from .deta_r50_24ep import dataloader, lr_multiplier, optimizer, train

model.postprocess.detections = 300  # as many as LVIS scores

train.output_dir = "output/finetune/lvis_deta_r50_hungarian_24ep"
