"""DETR on VOC 2012 with only its heads trained, and AR@1, 10, 100 (Siamese DETR's supplement).

The paper gives no schedule and is silent about queries and input projection: 50 epochs here, both
frozen. To train them too: "train.freeze=['*','!heads.*','!query_source.*','!neck.*']"
"""

from ...common.schedule import multistep
from .detr_r50_150ep import dataloader, model, optimizer, train

dataloader.train.dataset.names = "voc_2012_trainval"

optimizer.params.pop("rules")  # of the backbone, which is frozen
lr_multiplier = multistep([40], total=50)

train.freeze = ["*", "!heads.*"]
train.max_iter = "50 epochs"
train.eval_period = "5 epochs"
train.output_dir = "output/finetune/voc_detr_r50_heads_only"
