"""DUPR, deep unsupervised patch re-identification (Ding et al., arXiv:2103.04814).

Momentum contrast at several ResNet levels, for whole views and for patches of what both views show.
MoCo v2 is the case with one level and no patches. The key side and the banks move in `commit()`,
after the optimizer step: see deferred.py.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from torch import Tensor, nn

from d2_unsupdet.errors import UserError
from d2_unsupdet.metrics import log_metric
from d2_unsupdet.pretext.backbones import export_backbone, level_channels, refuse_frozen
from d2_unsupdet.pretext.contrastive import Contrast, InfoNCE
from d2_unsupdet.pretext.deferred import DeferredUpdates
from d2_unsupdet.pretext.images import IMAGENET_MEAN, IMAGENET_STD, ViewInput
from d2_unsupdet.pretext.key_queue import KeyQueue
from d2_unsupdet.pretext.momentum import momentum_copy, momentum_update
from d2_unsupdet.pretext.overlap import ViewGeometry, aligned_patches, view_geometry
from d2_unsupdet.pretext.projectors import ImageProjector, PatchProjector
from d2_unsupdet.pretext.ranks import mean_over, own_rows, shared_draw
from d2_unsupdet.pretext.shuffle import Shuffle

logger = logging.getLogger(__name__)
LEVELS = ("res2", "res3", "res4", "res5")
IMAGE_LOSS = InfoNCE(temperature=0.2)
# At batch 32 and 65,536 keys all logits of res4 take 1.6 GB, those of 512 rows 0.13 GB.
PATCH_LOSS = InfoNCE(temperature=0.2, chunk=512)


class Branch(nn.Module):
    """What exists twice, as query and as key: a backbone and heads on its levels.

    Args:
        backbone: a Detectron2 backbone whose output contains every level.
        image_heads: level to head, feature map -> (batch, dim).
        patch_heads: level to head, RoI features -> (batch, dim, s, s).
        patch_sizes: level to s.
        sampling_ratio: of RoIAlign; 0 is adaptive.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        image_heads: Mapping[str, nn.Module],
        patch_heads: Mapping[str, nn.Module],
        patch_sizes: Mapping[str, int],
        sampling_ratio: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.image_heads = nn.ModuleDict(image_heads)
        self.patch_heads = nn.ModuleDict(patch_heads)
        self.patch_sizes, self.sampling_ratio = dict(patch_sizes), sampling_ratio
        self.warned: set[str] = set()

    def forward(
        self, images: Tensor, boxes: Tensor | None = None, flipped: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`image_<level>` (batch, dim) and `patch_<level>` (batch, dim, s, s), unit vectors.

        `boxes` and `flipped` are only needed with patch heads.
        """
        features, out = self.backbone(images), {}
        for level, head in self.image_heads.items():
            out[f"image_{level}"] = head(features[level])
        for level, head in self.patch_heads.items():
            assert boxes is not None and flipped is not None
            self._watch_size(level, features[level], images.shape[-1])
            patches = aligned_patches(
                features[level],
                boxes,
                flipped,
                size=self.patch_sizes[level],
                side=images.shape[-1],
                sampling_ratio=self.sampling_ratio,
            )
            out[f"patch_{level}"] = head(patches)
        return out

    def _watch_size(self, level: str, feature: Tensor, side: int) -> None:
        size, cells = self.patch_sizes[level], feature.shape[-1]
        if size > cells and level not in self.warned:
            self.warned.add(level)
            logger.warning(
                "patch_sizes asks for %dx%d patches of %s, whose map has %dx%d cells at views of "
                "%d pixels: most of them are interpolated; %d would be the map's own",
                *(size, size, level, cells, cells, side, cells),
            )


@META_ARCH_REGISTRY.register()
class DUPR(DeferredUpdates):
    """Each view, and each patch of what two views share, must find itself in the other view.

    ::

        model = DUPR(backbone=resnet, queue_size=4096, patch_queue_size=4096)
        losses = model(batch)  # paired views: views, overlap, flipped, valid
        sum(losses.values()).backward()
        optimizer.step()
        model.commit()
        weights = model.export()

    Args:
        backbone: Detectron2 ResNet with trainable BN, nothing frozen, and the levels among its
            outputs.
        levels: outputs of the backbone, fine to coarse.
        image_weights: the paper's alpha, one a level; 0 builds neither head nor bank there.
        patch_weights: the paper's beta, likewise.
        patch_sizes: cells a side of the RoIAlign of each level; only read where beta is not 0.
        patch_reduction: "mean" or "sum" over the cells of an image; the images are averaged.
        image_loss: contrast of whole views.
        patch_loss: contrast of patches, whose logits are many: see `InfoNCE.chunk`.
        dim: length of an embedding.
        queue_size: keys in each image bank; on small data keep it below the number of images.
        patch_queue_size: keys in each patch bank.
        patch_keys: patches of an image that enter a patch bank at each step.
        momentum: of the key side, in [0, 1].
        shuffle_bn: encode keys on another rank than their query; the identity in one process.
        sampling_ratio: of RoIAlign; 0 takes as many samples as a cell has feature cells.
        pixel_mean: per channel, RGB, 0-255.
        pixel_std: per channel, RGB, 0-255.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        levels: Sequence[str] = LEVELS,
        image_weights: Sequence[float] = (0.1, 0.4, 0.7, 1.0),
        patch_weights: Sequence[float] = (0.0, 0.0, 1.0, 1.0),
        patch_sizes: Sequence[int] = (56, 28, 14, 7),
        patch_reduction: str = "mean",
        image_loss: InfoNCE = IMAGE_LOSS,
        patch_loss: InfoNCE = PATCH_LOSS,
        dim: int = 128,
        queue_size: int = 65536,
        patch_queue_size: int = 65536,
        patch_keys: int = 4,
        momentum: float = 0.999,
        shuffle_bn: bool = True,
        sampling_ratio: int = 0,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        alpha = _per_level("image_weights", levels, image_weights)
        beta = _per_level("patch_weights", levels, patch_weights)
        sizes = _per_level("patch_sizes", levels, patch_sizes)
        if not alpha and not beta:
            raise UserError("Every weight in image_weights and patch_weights is 0: set one.")
        if not 0 <= momentum <= 1 or dim < 1 or sampling_ratio < 0:
            raise UserError(
                f"momentum={momentum} must lie in [0, 1], dim={dim} be at least 1, and "
                f"sampling_ratio={sampling_ratio} not be negative."
            )
        if patch_reduction not in ("mean", "sum"):
            raise UserError(f"patch_reduction is '{patch_reduction}'; use 'mean' or 'sum'.")
        for level in beta:
            if level not in sizes:
                raise UserError(
                    f"patch_sizes is 0 at {level}, where patch_weights is {beta[level]}."
                )
            if not 1 <= patch_keys <= sizes[level] ** 2:
                raise UserError(
                    f"patch_keys={patch_keys}, but {level} has {sizes[level]}x{sizes[level]} "
                    "patches an image; choose between 1 and their number."
                )
        channels = {level: level_channels(backbone, level) for level in {**alpha, **beta}}
        refuse_frozen(backbone)
        self.views = ViewInput(mean=pixel_mean, std=pixel_std)
        self.query = Branch(
            backbone=backbone,
            image_heads={m: ImageProjector(in_dim=channels[m], out_dim=dim) for m in alpha},
            patch_heads={m: PatchProjector(in_dim=channels[m], out_dim=dim) for m in beta},
            patch_sizes={m: int(sizes[m]) for m in beta},
            sampling_ratio=sampling_ratio,
        )
        self.key = momentum_copy(self.query)
        kinds = {**_tagged("image", alpha, queue_size), **_tagged("patch", beta, patch_queue_size)}
        self.queues = nn.ModuleDict(
            {name: KeyQueue(size=int(size), dim=dim, name=name) for name, size in kinds.items()}
        )
        self.weights = {**_tagged("image", alpha), **_tagged("patch", beta)}
        self.patch_reduction, self.patch_keys = patch_reduction, patch_keys
        self.image_loss, self.patch_loss = image_loss, patch_loss
        self.momentum, self.shuffle_bn = momentum, shuffle_bn

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        dupr = cfg.MODEL.DUPR
        return {
            "backbone": build_backbone(cfg),
            "levels": dupr.LEVELS,
            "image_weights": dupr.IMAGE_WEIGHTS,
            "patch_weights": dupr.PATCH_WEIGHTS,
            "patch_sizes": dupr.PATCH_SIZES,
            "patch_reduction": dupr.PATCH_REDUCTION,
            "image_loss": InfoNCE(temperature=dupr.TEMPERATURE),
            "patch_loss": InfoNCE(temperature=dupr.TEMPERATURE, chunk=dupr.PATCH_CHUNK),
            "dim": dupr.DIM,
            "queue_size": dupr.QUEUE_SIZE,
            "patch_queue_size": dupr.PATCH_QUEUE_SIZE,
            "patch_keys": dupr.PATCH_KEYS,
            "momentum": dupr.MOMENTUM,
            "shuffle_bn": dupr.SHUFFLE_BN,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.views.device

    def check_run(self, *, batch: int, images: int) -> None:
        """Refuse a bank that cannot hold the keys of a step; warn of one that holds the query.

        Args:
            batch: images of a step, over all processes.
            images: of the data set.
        """
        full = []
        for name in self.queues:
            patches = name.startswith("patch")
            each, key = (self.patch_keys, "patch_queue_size") if patches else (1, "queue_size")
            size = len(self.queue(name).keys)
            if size < batch * each:
                raise UserError(
                    f"The bank '{name}' holds {size} keys, but a step of {batch} images brings "
                    f"{batch * each}; raise {key} to that or take a smaller batch."
                )
            if size > images * each:
                full.append(f"{name} ({size} keys, better {max(batch, images // 2) * each})")
        if full:
            logger.warning(
                "banks larger than an epoch of %d images hold the query's own image among its "
                "negatives; make them smaller: %s",
                images,
                ", ".join(full),
            )

    def forward(self, batch: list[dict]) -> dict[str, Tensor]:
        """The weighted losses of a paired batch; metrics go to `log_metric`."""
        self.start_forward()
        first, second = self.views.stack(batch)  # (batch, 3, s, s) uint8 each
        here = there = None
        if self.query.patch_heads:
            here, there = view_geometry(batch, self.device)
        # Drawn before anything that depends on the number of processes, so that it does not.
        chosen = self._choose_patches(len(batch))
        queries = self.query(self.views(first), *_boxes(here))
        keys = self._encode_keys(second, there)
        losses, deferred = {}, {}
        for name, query in queries.items():
            own = own_rows(keys[name])
            if name in chosen:
                assert here is not None
                losses[f"loss_{name}"] = self._patch_loss(name, query, own, here.valid)
                deferred[name] = _pick(keys[name], chosen[name])
            else:
                contrast = self.image_loss(query, own, self.queue(name).keys)
                _log(name, contrast, query)
                losses[f"loss_{name}"] = self.weights[name] * contrast.loss.mean()
                deferred[name] = keys[name]
        if self.training:
            self.defer(**deferred)
        return losses

    def apply_updates(self, outstanding: Sequence[Mapping[str, Tensor]]) -> None:
        momentum_update(self.key, self.query, self.momentum)
        for keys in outstanding:
            for name in keys:
                self.queue(name).enqueue(keys[name])

    def export(self) -> dict[str, Tensor]:
        """The query backbone under bare ResNet names (`res2.0.conv1.weight`), BN statistics too."""
        return export_backbone(self.query.backbone)

    def queue(self, name: str) -> KeyQueue:
        """The bank of one kind and level, e.g. "image_res5"."""
        queue = self.queues[name]
        assert isinstance(queue, KeyQueue)
        return queue

    def _choose_patches(self, rows: int) -> dict[str, Tensor]:
        """Which patches become keys: name -> (global batch, patch_keys), without repetition."""
        return {
            f"patch_{level}": shared_draw(rows, size**2, self.device).topk(self.patch_keys).indices
            for level, size in self.query.patch_sizes.items()
        }

    def _patch_loss(self, name: str, query: Tensor, key: Tensor, valid: Tensor) -> Tensor:
        """All cells of all images are rows of one contrast; pairs without overlap count nothing."""
        images, cells = len(query), query[0, 0].numel()
        contrast = self.patch_loss(_rows(query), _rows(key), self.queue(name).keys)
        _log(name, contrast, _rows(query))
        per_image = contrast.loss.view(images, cells).mean(dim=1)
        if self.patch_reduction == "sum":
            per_image = per_image * cells
        return self.weights[name] * mean_over(per_image, valid)

    @torch.no_grad()
    def _encode_keys(self, images: Tensor, view: ViewGeometry | None) -> dict[str, Tensor]:
        """Keys of all ranks' images in the order of the global batch. Boxes and flags travel with
        their images; on the way back only the small embeddings do."""
        shuffle = Shuffle(rows=len(images), device=images.device, enabled=self.shuffle_bn)
        moved = [shuffle.scatter(x) for x in (images, *_boxes(view))]
        keys = self.key(self.views(moved[0]), *moved[1:])
        return {name: shuffle.restore(x) for name, x in keys.items()}


def _per_level(name: str, levels: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Level to value where the value is not 0."""
    if len(values) != len(levels):
        raise UserError(
            f"{name} has {len(values)} values {list(values)} for the {len(levels)} levels "
            f"{list(levels)}; give one for each."
        )
    if any(value < 0 for value in values):
        raise UserError(f"{name} is {list(values)}; no value may be negative.")
    return {level: value for level, value in zip(levels, values, strict=True) if value}


def _tagged(
    kind: str, weights: Mapping[str, float], value: float | None = None
) -> dict[str, float]:
    return {f"{kind}_{m}": w if value is None else value for m, w in weights.items()}


def _boxes(view: ViewGeometry | None) -> tuple[Tensor, ...]:
    return () if view is None else (view.boxes, view.flipped)


def _rows(patches: Tensor) -> Tensor:
    """(batch, dim, s, s) -> (batch * s * s, dim)."""
    return patches.permute(0, 2, 3, 1).flatten(0, 2)


def _pick(patches: Tensor, cells: Tensor) -> Tensor:
    """The chosen cells (batch, n) of (batch, dim, s, s), image by image: (batch * n, dim)."""
    flat = patches.flatten(2)  # (batch, dim, s * s)
    picked = flat.gather(2, cells[:, None].expand(-1, flat.shape[1], -1))
    return picked.transpose(1, 2).flatten(0, 1)


def _log(name: str, contrast: Contrast, query: Tensor) -> None:
    log_metric(f"{name}/accuracy", contrast.correct)
    log_metric(f"{name}/positive_similarity", contrast.positive)
    log_metric(f"{name}/negative_similarity", contrast.negative)
    # A collapsed encoder gives 0; embeddings spread evenly over the sphere give 1 / sqrt(dim).
    log_metric(f"{name}/feature_std", query.detach().std(dim=0, unbiased=False))
