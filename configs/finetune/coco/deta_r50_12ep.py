"""DETA on COCO 2017, 12 epochs (arXiv:2212.06137).

train.init_checkpoint= takes a ResNet-50, bare or exported, or a whole detector.
"""

from ...common.data.detr import detr
from ...common.models.deta import model
from ...common.optim import AdamW_deformable as optimizer
from ...common.schedule import multistep
from ...common.train import train

dataloader = detr("coco_2017_train", "coco_2017_val", batch=16)

lr_multiplier = multistep([10], total=12)

train.max_iter = "12 epochs"
train.clip_grad_norm = 0.1
train.eval_period = "1 epochs"
train.output_dir = "output/finetune/deta_r50_12ep"
