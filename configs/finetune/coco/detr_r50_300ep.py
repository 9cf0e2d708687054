"""DETR on COCO 2017, 300 epochs: the default of its code (arXiv:2005.12872).

train.init_checkpoint= takes a ResNet-50, bare or exported, or a whole detector.
"""

from ...common.data.detr import detr
from ...common.models.detr import model
from ...common.optim import AdamW_detr as optimizer
from ...common.schedule import multistep
from ...common.train import train

dataloader = detr("coco_2017_train", "coco_2017_val", batch=16)

lr_multiplier = multistep([200], total=300)

train.max_iter = "300 epochs"
train.clip_grad_norm = 0.1
train.eval_period = "10 epochs"
train.output_dir = "output/finetune/detr_r50_300ep"
