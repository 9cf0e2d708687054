"""UP-DETR on a folder of images, ResNet-18, without any file of weights.

dataloader.train.dataset.names=folder:/path/to/images
dataloader.test.dataset.names=coco:labels.json@/path/to/images  (scored without classes; optional)
"""

from ...common.data.proposals import proposals
from ...common.models.deformable_detr import model
from ...common.models.up_detr import up_detr
from ...common.optim import AdamW_deformable as optimizer
from ...common.schedule import multistep
from .imagenet_detr_r50_60ep import dataloader, train

dataloader.train.dataset.names = "toy_unlabeled"
dataloader.train.total_batch_size = 16
dataloader.update(proposals(test_edge=480, max_size=800))  # the largest size it trains at

model.backbone.stages.depth = 18
model.backbone.stem.norm = "BN"  # frozen statistics of random weights are of no use
model = up_detr(model, freeze_at=0)

optimizer.params.rules[0].lr_factor = 1.0  # nothing is pretrained
lr_multiplier = multistep([40], total=50)

train.max_iter = "50 epochs"
train.checkpointer.period = "5 epochs"
train.output_dir = "output/pretrain/up_detr_folder_deformable_detr_r18"
