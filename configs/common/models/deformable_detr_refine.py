"""Deformable DETR with iterative box refinement: each layer corrects the one before."""

from .deformable_detr import model

model.decoder.refine = True
model.heads.shared = False
