"""DN-DAB-Deformable-DETR (arXiv:2203.01305): DAB with groups of noised ground truth."""

from detectron2.config import LazyCall as L

from d2_unsupdet.detectors import Denoising, DNDABDeformableDETR

from .dab_deformable_detr import model

model._target_ = DNDABDeformableDETR
model.query_source.denoising = L(Denoising)(
    num_classes="${...heads.num_classes}",
    dim="${...encoder.dim}",
    groups=5,
    label_noise=0.2,
    box_noise=0.4,
    eps="${...heads.eps}",
)
