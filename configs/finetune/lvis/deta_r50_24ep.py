"""DETA on LVIS v1: our recipe, since the paper's is not in its code.

COCO's 24 epochs. As is usual on LVIS, images of rare classes come oftener, most classes that nobody
looked for are no negatives, and 300 detections count.
"""

from detectron2.config import LazyCall as L

from d2_unsupdet.detectors import FederatedClasses

from ...common.data.detr import detr
from ..coco.deta_r50_24ep import lr_multiplier, model, optimizer, train

dataloader = detr("lvis_v1_train", "lvis_v1_val", batch=16)
dataloader.train.repeat_threshold = 0.001

model.criterion.federated = L(FederatedClasses)()
model.postprocess.detections = 300  # as many as LVIS scores

train.output_dir = "output/finetune/lvis_deta_r50_24ep"
