"""DETReg (arXiv:2106.04550) on any detector: `model = detreg(detector)`."""

from detectron2.config import LazyCall as L

from d2_unsupdet.pretext import DETReg

from .box_pretext import class_agnostic, with_backbone


def detreg(detector, *, freeze_at=5):
    """The class loss is of the detector's own kind: softmax in DETR, focal in the others."""
    detector = with_backbone(detector, freeze_at)
    return L(DETReg)(
        detector=class_agnostic(detector, softmax=bool(detector.heads.get("background"))),
        levels=["res3"],  # 512 channels of a ResNet-50
        embedding_weight=1.0,
        label=0,
        denoising=True,
    )
