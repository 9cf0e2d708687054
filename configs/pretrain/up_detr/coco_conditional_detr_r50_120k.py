"""UP-DETR on COCO's images as Siamese DETR's authors ran it: Conditional DETR, 100 queries."""

from ...common.data.proposals import proposals
from ...common.schedule import multistep
from .imagenet_conditional_detr_r50_300k import dataloader, model, optimizer, train

dataloader.train.dataset.names = "coco_2017_train_unlabeled"
dataloader.train.total_batch_size = 64  # 16 x 4
(_resize,) = dataloader.train.mapper.augmentations
_resize.short_edge_length = list(range(480, 800 + 1, 32))
_resize.max_size = 1333
dataloader.update(proposals("coco_2017_val"))

lr_multiplier = multistep([80_000], total=120_000)  # epochs 43 and 65

train.max_iter = 120_000
train.eval_period = 20_000
train.output_dir = "output/pretrain/up_detr_coco_conditional_detr_r50_120k"
