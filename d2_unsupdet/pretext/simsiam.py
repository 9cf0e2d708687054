"""SimSiam (Chen and He, arXiv:2011.10566): DenseSiam's image part alone."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone

from d2_unsupdet.pretext.dense_siam import DenseSiam
from d2_unsupdet.pretext.images import IMAGENET_MEAN, IMAGENET_STD


@META_ARCH_REGISTRY.register()
class SimSiam(DenseSiam):
    """Each view must be predictable from the other; the predicted side gets no gradient.

    ::

        model = SimSiam(backbone=resnet)
        losses = model([{"views": torch.zeros(2, 3, 224, 224, dtype=torch.uint8)}, ...])
        weights = model.export()

    Args:
        backbone: Detectron2 ResNet, trainable BN, nothing frozen, `level` among its outputs.
        level: backbone output that is pooled and compared.
        dim: length of an embedding.
        hidden: width of the predictor, a quarter of `dim` in the paper.
        similarity: "cosine", or "cross_entropy" of the paper's ablation.
        zero_init_last_norm: residual branches start at zero, as in the official code.
        collapse_threshold: share of the healthy feature std, 1/sqrt(dim), under which we warn.
        pixel_mean: per channel, RGB, 0-255.
        pixel_std: per channel, RGB, 0-255.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        level: str = "res5",
        dim: int = 2048,
        hidden: int = 512,
        similarity: str = "cosine",
        zero_init_last_norm: bool = True,
        collapse_threshold: float = 0.1,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(
            backbone=backbone,
            level=level,
            image_weight=1.0,
            pixel_weight=0.0,
            region_weight=0.0,
            image_similarity=similarity,
            dim=dim,
            hidden=hidden,
            zero_init_last_norm=zero_init_last_norm,
            collapse_threshold=collapse_threshold,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        siam = cfg.MODEL.SIMSIAM
        return {
            "backbone": build_backbone(cfg),
            "dim": siam.DIM,
            "hidden": siam.HIDDEN,
            "similarity": siam.SIMILARITY,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }
