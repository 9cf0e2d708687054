"""Siamese DETR (arXiv:2303.18144) on any detector: `model = siamese_detr(detector)`.

Weights (global, region) of the released configs: ImageNet 10, 3 (Conditional DETR 10, 5), COCO
0.3, 3. Read as in its text, the supplement has 3, 10 for ImageNet; for other data it says 1, 1.
"""

from detectron2.config import LazyCall as L

from d2_unsupdet.pretext import SiameseDETR

from .box_pretext import class_agnostic, with_backbone


def siamese_detr(detector, *, global_weight=1.0, region_weight=1.0, freeze_at=5):
    return L(SiameseDETR)(
        detector=class_agnostic(with_backbone(detector, freeze_at), softmax=True),
        levels="${.detector.in_features}",
        feature_weight=region_weight,
        global_weight=global_weight,
        jitter=0.1,
        aligned=True,
        ignore_padding=True,
        match_within_group=False,
        label=0,
        denoising=True,
    )
