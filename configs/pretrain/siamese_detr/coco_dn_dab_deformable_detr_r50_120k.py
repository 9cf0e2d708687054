"""As coco_conditional_detr_r50_120k.py, DN-DAB-Deformable-DETR; its own weights are not printed."""

from ...common.models.dn_dab_deformable_detr import model
from ...common.models.siamese_detr import siamese_detr
from .coco_conditional_detr_r50_120k import dataloader, lr_multiplier, optimizer, train

model = siamese_detr(model, global_weight=0.3, region_weight=3.0)

train.output_dir = "output/pretrain/siamese_detr_coco_dn_dab_deformable_detr_r50_120k"
