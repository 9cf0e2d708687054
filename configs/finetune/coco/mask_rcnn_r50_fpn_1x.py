"""Mask R-CNN FPN on COCO 2017: MoCo's protocol (arXiv:1911.05722).

train.init_checkpoint= takes the exported backbone.
"""

from ...common.data.detection import detection
from ...common.models.mask_rcnn_fpn import model
from ...common.optim import SGD_finetune as optimizer
from ...common.schedule import multistep
from ...common.train import train

dataloader = detection(
    "coco_2017_train",
    "coco_2017_val",
    batch=16,
    short_edges=range(640, 800 + 1, 32),
    max_size=1333,
    test_edge=800,
    masks=True,
)

optimizer.lr = 0.02
lr_multiplier = multistep([60000, 80000], total=90000, warmup=1000)

train.max_iter = 90000
train.precise_bn.enabled = True
train.output_dir = "output/finetune/mask_rcnn_r50_fpn_1x"
