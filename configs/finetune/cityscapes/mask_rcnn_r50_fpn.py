"""Mask R-CNN FPN on Cityscapes instances, as DetCo and DUPR evaluate.

train.init_checkpoint= takes the exported backbone.
"""

from ...common.data.detection import detection
from ...common.models.mask_rcnn_fpn import model
from ...common.optim import SGD_finetune as optimizer
from ...common.schedule import multistep
from ...common.train import train

dataloader = detection(
    "cityscapes_fine_instance_seg_train",
    "cityscapes_fine_instance_seg_val",
    batch=8,
    short_edges=range(800, 1024 + 1, 32),
    max_size=2048,
    test_edge=1024,
    masks=True,
)

optimizer.lr = 0.01
lr_multiplier = multistep([18000], total=24000, warmup=1000)

train.max_iter = 24000
train.precise_bn.enabled = True
train.output_dir = "output/finetune/cityscapes_mask_rcnn_r50_fpn"
