"""As detr_r50_150ep.py, as UP-DETR finetunes on COCO: norms before each layer, backbone at 5e-5."""

from .detr_r50_150ep import dataloader, lr_multiplier, model, optimizer, train

model.encoder.pre_norm = True

optimizer.params.rules[0].lr_factor = 0.5

train.output_dir = "output/finetune/voc_detr_r50_pre_norm_150ep"
