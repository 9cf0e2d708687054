"""Faster R-CNN C4 on VOC 2007+2012 trainval -> 2007 test: MoCo's protocol (arXiv:1911.05722).

train.init_checkpoint= takes the exported backbone.
"""

from ...common.data.detection import detection
from ...common.models.faster_rcnn_c4 import model
from ...common.optim import SGD_finetune as optimizer
from ...common.schedule import multistep
from ...common.train import train

dataloader = detection(
    "voc_2007_trainval,voc_2012_trainval",
    "voc_2007_test",
    batch=16,
    short_edges=range(480, 800 + 1, 32),
    max_size=1333,
    test_edge=800,
)

optimizer.lr = 0.02
lr_multiplier = multistep([18000, 22000], total=24000, warmup=100)

train.max_iter = 24000
train.precise_bn.enabled = True
train.output_dir = "output/finetune/voc_faster_rcnn_r50_c4_24k"
