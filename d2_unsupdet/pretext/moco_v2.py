"""MoCo v2 (Chen et al., arXiv:2003.04297) on a Detectron2 ResNet.

The key encoder and the banks move in `commit()`, after the optimizer step: see deferred.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from torch import Tensor, nn

from d2_unsupdet.errors import UserError, nearest
from d2_unsupdet.pretext.contrastive import Contrast, info_nce
from d2_unsupdet.pretext.deferred import DeferredUpdates
from d2_unsupdet.pretext.images import ViewInput
from d2_unsupdet.pretext.key_queue import KeyQueue
from d2_unsupdet.pretext.metrics import log_metric
from d2_unsupdet.pretext.momentum import momentum_copy, momentum_update
from d2_unsupdet.pretext.projectors import ImageProjector
from d2_unsupdet.pretext.ranks import own_rows
from d2_unsupdet.pretext.shuffle import Shuffle

IMAGENET_MEAN = (123.675, 116.280, 103.530)
IMAGENET_STD = (58.395, 57.120, 57.375)


class Branch(nn.Module):
    """What exists twice, as query and as key: a backbone and one head per feature level.

    Args:
        backbone: a Detectron2 backbone whose output contains every level of `heads`.
        heads: level name to head.
    """

    def __init__(self, *, backbone: Backbone, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict(heads)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone(images)
        return {level: head(features[level]) for level, head in self.heads.items()}


@META_ARCH_REGISTRY.register()
class MoCoV2(DeferredUpdates):
    """Momentum contrast: view 0 must find its own view 1 among the keys of past images.

    ::

        model = MoCoV2(backbone=resnet, queue_size=4096)
        losses = model([{"views": torch.zeros(2, 3, 224, 224, dtype=torch.uint8)}, ...])
        model.commit()  # after the optimizer step
        weights = model.export()

    Args:
        backbone: Detectron2 ResNet with trainable BN, nothing frozen, and "res5" among its outputs.
        dim: length of an embedding.
        queue_size: keys in the bank; on small data keep it below the number of images.
        momentum: of the key encoder, in [0, 1].
        temperature: divides the similarities; 0.2 in v2, 0.07 in v1.
        level: backbone output that is contrasted.
        shuffle_bn: encode keys on another rank than their query; the identity in one process.
        logit_chunk: rows of logits kept at a time (see info_nce); None keeps all.
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
        super().__init__()
        channels = _channels(backbone, level)
        _refuse_frozen(backbone)
        self.views = ViewInput(mean=pixel_mean, std=pixel_std)
        head = ImageProjector(in_dim=channels, out_dim=dim)
        self.query = Branch(backbone=backbone, heads={level: head})
        self.key = momentum_copy(self.query)
        self.queues = nn.ModuleDict({level: KeyQueue(size=queue_size, dim=dim, name=level)})
        self.momentum = momentum
        self.temperature = temperature
        self.shuffle_bn = shuffle_bn
        self.logit_chunk = logit_chunk

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

    @property
    def device(self) -> torch.device:
        return self.views.device

    def forward(self, batch: list[dict]) -> dict[str, Tensor]:
        """The weighted loss of a paired batch; metrics go to `log_metric`."""
        self.start_forward()
        first, second = self.views.stack(batch)  # (batch, 3, s, s) uint8 each
        queries = self.query(self.views(first))
        keys = self._encode_keys(second)
        losses = []
        for level in queries:
            contrast = info_nce(
                queries[level],
                own_rows(keys[level]),
                self.queue(level).keys,
                temperature=self.temperature,
                chunk=self.logit_chunk,
            )
            _log(contrast, queries[level])
            losses.append(contrast.loss.mean())
        if self.training:
            self.defer(**keys)
        return {"loss_moco": torch.stack(losses).sum()}

    def apply_updates(self, outstanding: Sequence[Mapping[str, Tensor]]) -> None:
        momentum_update(self.key, self.query, self.momentum)
        for keys in outstanding:
            for level in keys:
                self.queue(level).enqueue(keys[level])

    def export(self) -> dict[str, Tensor]:
        """The query backbone under bare ResNet names (`res2.0.conv1.weight`), BN statistics too."""
        weights = self.query.backbone.state_dict()
        return {name: value.detach().clone() for name, value in weights.items()}

    def queue(self, level: str) -> KeyQueue:
        """The bank of one feature level."""
        queue = self.queues[level]
        assert isinstance(queue, KeyQueue)
        return queue

    @torch.no_grad()
    def _encode_keys(self, images: Tensor) -> dict[str, Tensor]:
        """Keys of all ranks' images in the order of the global batch: level -> (global, dim)."""
        shuffle = Shuffle(rows=len(images), device=images.device, enabled=self.shuffle_bn)
        keys = self.key(self.views(shuffle.scatter(images)))
        return {level: shuffle.restore(x) for level, x in keys.items()}


def _channels(backbone: Backbone, level: str) -> int:
    shapes = backbone.output_shape()
    if level not in shapes:
        raise UserError(
            f"The backbone has no output '{level}', only {sorted(shapes)}; "
            f"add it to the backbone's out_features.{nearest(level, shapes)}"
        )
    return shapes[level].channels


def _refuse_frozen(backbone: Backbone) -> None:
    """Detectron2's defaults freeze two stages and every norm: meant for pretrained weights."""
    frozen = [name for name, p in backbone.named_parameters() if not p.requires_grad]
    frozen += [n for n, m in backbone.named_modules() if isinstance(m, FrozenBatchNorm2d)]
    if frozen:
        raise UserError(
            f"The backbone to pretrain has {len(frozen)} frozen parts, for example '{frozen[0]}'; "
            "set freeze_at to 0 and norm to 'BN' or 'SyncBN'."
        )


def _log(contrast: Contrast, query: Tensor) -> None:
    log_metric("moco/accuracy", contrast.correct)
    log_metric("moco/positive_similarity", contrast.positive)
    log_metric("moco/negative_similarity", contrast.negative)
    # A collapsed encoder gives 0; embeddings spread evenly over the sphere give 1 / sqrt(dim).
    log_metric("moco/feature_std", query.detach().std(dim=0, unbiased=False))
