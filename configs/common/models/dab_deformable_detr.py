"""DAB-Deformable-DETR (arXiv:2201.12329): learned boxes as queries."""

from detectron2.config import LazyCall as L

from d2_unsupdet.detectors import DABDeformableDETR, LearnedAnchors

from .deformable_detr_refine import model

model._target_ = DABDeformableDETR
model.query_source = L(LearnedAnchors)(num_queries=300, dim="${..encoder.dim}")
model.encoder.ffn_dim = 2048
model.encoder.dropout = 0.0
model.decoder.anchor_position = True
model.decoder.padded_position = True  # False: padding changes nothing
model.heads.eps = 1e-3
model.criterion.weights.ce = 1.0  # the matcher's stays 2
