"""As deta_r50_24ep.py, one query for each object: the baseline of DETA's table."""

from detectron2.config import LazyCall as L

from d2_unsupdet.detectors import FederatedClasses

from ..coco.deta_r50_hungarian_50ep import model
from .deta_r50_24ep import dataloader, lr_multiplier, optimizer, train

model.criterion.federated = L(FederatedClasses)()
model.postprocess.detections = 300  # as many as LVIS scores

train.output_dir = "output/finetune/lvis_deta_r50_hungarian_24ep"
