"""MoCo v2 (Chen et al., arXiv:2003.04297): DUPR with one level and no patches."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone

from d2_unsupdet.pretext.contrastive import InfoNCE
from d2_unsupdet.pretext.dupr import DUPR
from d2_unsupdet.pretext.images import IMAGENET_MEAN, IMAGENET_STD


@META_ARCH_REGISTRY.register()
class MoCoV2(DUPR):
    """Momentum contrast: view 0 must find its own view 1 among the keys of past images.

    ::

        model = MoCoV2(backbone=resnet, queue_size=4096)
        losses = model([{"views": torch.zeros(2, 3, 224, 224, dtype=torch.uint8)}, ...])
        model.commit()  # after the optimizer step
        weights = model.export()

    Args:
        backbone: Detectron2 ResNet, trainable BN, nothing frozen, `level` among its outputs.
        dim: length of an embedding.
        queue_size: keys in the bank; on small data keep it below the number of images.
        momentum: of the key encoder, in [0, 1].
        temperature: divides the similarities; 0.2 in v2, 0.07 in v1.
        level: backbone output that is contrasted.
        shuffle_bn: encode keys on another rank than their query; the identity in one process.
        logit_chunk: rows of logits kept at a time (see InfoNCE); None keeps all.
        pixel_mean: per channel, RGB, 0-255.
        pixel_std: per channel, RGB, 0-255.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        dim: int = 128,
        queue_size: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.2,
        level: str = "res5",
        shuffle_bn: bool = True,
        logit_chunk: int | None = None,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(
            backbone=backbone,
            levels=[level],
            image_weights=[1.0],
            patch_weights=[0.0],
            patch_sizes=[0],
            image_loss=InfoNCE(temperature=temperature, chunk=logit_chunk),
            dim=dim,
            queue_size=queue_size,
            momentum=momentum,
            shuffle_bn=shuffle_bn,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        moco = cfg.MODEL.MOCO
        return {
            "backbone": build_backbone(cfg),
            "dim": moco.DIM,
            "queue_size": moco.QUEUE_SIZE,
            "momentum": moco.MOMENTUM,
            "temperature": moco.TEMPERATURE,
            "shuffle_bn": moco.SHUFFLE_BN,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }
