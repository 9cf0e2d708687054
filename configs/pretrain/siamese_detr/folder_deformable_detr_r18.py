"""Siamese DETR on a folder of images, Deformable DETR, ResNet-18, without any file of weights.

dataloader.train.dataset.names=folder:/path/to/images
dataloader.test.dataset.names=coco:labels.json@/path/to/images  (scored without classes; optional)
dataloader.train.mapper.source.path=/path/to/their/boxes
"""

from ...common.data.proposals import proposals
from ...common.models.deformable_detr import model
from ...common.models.siamese_detr import siamese_detr
from ...common.optim import AdamW_deformable as optimizer
from ...common.schedule import multistep
from .imagenet_detr_r50_300k import dataloader, train

dataloader.train.dataset.names = "toy_unlabeled"
dataloader.train.total_batch_size = 16
dataloader.update(proposals(test_edge=480, max_size=800))  # the largest size it trains at
dataloader.train.mapper.source.path = "output/priors/folder_edge_boxes"

model.backbone.stages.depth = 18
model.backbone.stem.norm = "BN"  # frozen statistics of random weights are of no use
model = siamese_detr(model, freeze_at=0)  # weights 1 and 1, as for other data than the papers'

optimizer.params.rules[0].lr_factor = 1.0  # nothing is pretrained
lr_multiplier = multistep([40], total=50)

train.max_iter = "50 epochs"
train.checkpointer.period = "5 epochs"
train.max_bad_images = 0.2
train.output_dir = "output/pretrain/siamese_detr_folder_deformable_detr_r18"
