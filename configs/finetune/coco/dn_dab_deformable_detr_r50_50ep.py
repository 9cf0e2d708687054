"""DN-DAB-Deformable-DETR on COCO 2017, 50 epochs (arXiv:2203.01305).

train.init_checkpoint= takes a ResNet-50, bare or exported, or a whole detector.
"""

from ...common.data.detr import detr
from ...common.models.dn_dab_deformable_detr import model
from ...common.optim import AdamW_detr as optimizer
from ...common.schedule import multistep
from ...common.train import train

dataloader = detr("coco_2017_train", "coco_2017_val", batch=16)

lr_multiplier = multistep([40], total=50)

train.max_iter = "50 epochs"
train.clip_grad_norm = 0.1
train.eval_period = "5 epochs"
train.output_dir = "output/finetune/dn_dab_deformable_detr_r50_50ep"
