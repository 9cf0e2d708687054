"""Dilated FCN on Cityscapes: MoCo's semantic segmentation (arXiv:1911.05722), which DUPR reports.

train.init_checkpoint= takes the exported backbone. Nobody published code: head, jitter, batch and
drops at 70 % and 90 % are as on VOC, whose text others quote; crop, rate and length are as it is
remembered. Norms without decay are Detectron2's way.
"""

from ...common.data.semantic import semantic
from ...common.models.dilated_fcn import model
from ...common.optim import SGD_finetune as optimizer
from ...common.schedule import multistep
from ...common.train import train

dataloader = semantic(
    "cityscapes_fine_sem_seg_train", "cityscapes_fine_sem_seg_val", batch=16, crop=769
)

optimizer.lr = 0.01
lr_multiplier = multistep([63000, 81000], total=90000)

train.max_iter = 90000
train.best_metric = "sem_seg/IoU"  # of Cityscapes' own scripts
train.output_dir = "output/finetune/cityscapes_fcn_r50_90k"
