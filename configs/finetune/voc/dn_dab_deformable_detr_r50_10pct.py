"""DN-DAB-Deformable-DETR on 10 % of VOC 2012, as Siamese DETR's supplement compares."""

from .dn_dab_deformable_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "voc_2012_trainval"
dataloader.train.dataset.subset = "10%"

train.checkpointer.period = "10 epochs"
train.output_dir = "output/finetune/voc_dn_dab_deformable_detr_r50_10pct"
