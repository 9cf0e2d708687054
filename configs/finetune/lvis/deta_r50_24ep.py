"""DETA on LVIS v1: our recipe, since the paper's is not in its code.

COCO's 24 epochs and loss; images of rare classes oftener, and 300 detections, as is usual on LVIS.
"""

from ...common.data.detr import detr
from ..coco.deta_r50_24ep import lr_multiplier, model, optimizer, train

dataloader = detr("lvis_v1_train", "lvis_v1_val", batch=16)
dataloader.train.repeat_threshold = 0.001

model.postprocess.detections = 300  # as many as LVIS scores

train.output_dir = "output/finetune/lvis_deta_r50_24ep"
