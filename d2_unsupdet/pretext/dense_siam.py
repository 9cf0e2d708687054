"""DenseSiam (Zhang et al., arXiv:2203.11075): siamese learning of views, pixels and regions.

No negatives across images, no momentum encoder: a predictor on one side, a stopped gradient on the
other. Its pretraining code was never published: docs/methods/dense_siam.md tells what we chose.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock, DeformBottleneckBlock
from torch import Tensor, nn

from d2_unsupdet.errors import UserError
from d2_unsupdet.metrics import log_metric
from d2_unsupdet.pretext.backbones import export_backbone, level_channels, refuse_frozen
from d2_unsupdet.pretext.correspondence import (
    Correspondence,
    DenseView,
    correspondence,
    dense_loss,
    read,
)
from d2_unsupdet.pretext.images import IMAGENET_MEAN, IMAGENET_STD, ViewInput
from d2_unsupdet.pretext.overlap import grid_points, to_view, view_geometry
from d2_unsupdet.pretext.projectors import siamese_predictor, siamese_projector
from d2_unsupdet.pretext.ranks import mean_over
from d2_unsupdet.pretext.regions import region_contrast, region_embeddings, shared_regions
from d2_unsupdet.pretext.siamese import (
    check_counts,
    check_regions,
    eval_mode,
    symmetric,
    waiting,
)
from d2_unsupdet.pretext.similarity import similarity

LOCATION = correspondence("location")


class SiameseHead(nn.Module):
    """A projector and the predictor behind it; `head(x)` is (target, prediction).

    Args:
        in_dim: channels of the input and width of the projector.
        dim: channels of target and prediction.
        hidden: width of the predictor.
        convolutional: 1x1 convolutions on maps instead of linear layers on rows.
    """

    def __init__(self, *, in_dim: int, dim: int, hidden: int, convolutional: bool = False) -> None:
        super().__init__()
        dims = (in_dim, in_dim, in_dim, dim)
        self.projector = siamese_projector(dims, convolutional=convolutional)
        self.predictor = siamese_predictor(dim, hidden, convolutional=convolutional)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        target = self.projector(x)
        return target, self.predictor(target)


@META_ARCH_REGISTRY.register()
class DenseSiam(nn.Module):
    """Views, their pixels and their pseudo-categories must be predictable from the other view.

    ::

        model = DenseSiam(backbone=resnet)
        model.progress = step / steps  # our trainer does that; regions start late
        losses = model(batch)  # paired views: views, overlap, flipped, valid, rectangles
        sum(losses.values()).backward()
        weights = model.export()
        labels = model.categories(images)  # (batch, h, w), one pseudo-category a cell

    Args:
        backbone: Detectron2 ResNet with trainable BN, nothing frozen, and `level` among its
            outputs.
        level: backbone output that is compared.
        image_weight: of SimSiam on the pooled level; 0 builds no head, here as below.
        pixel_weight: of PixSim, the comparison of single places.
        region_weight: of RegionSim, the contrast of pseudo-categories within an image.
        image_similarity: "cosine" or "cross_entropy".
        pixel_similarity: "cosine" or "cross_entropy".
        correspondence: which places PixSim compares; see `correspondence()`.
        dim: channels of the image and region targets.
        pixel_dim: channels of the pixel target, which are the pseudo-categories.
        hidden: width of every predictor.
        region_start: share of the run after which RegionSim is on, in [0, 1]; never with 1.
        region_temperature: divides the similarities of regions, above 0.
        region_grid: points a side that RegionSim reads in the shared part.
        regions: pseudo-categories of an image that are contrasted, those with most mass in both
            views, at least 1; None takes all.
        region_stop_gradient: whether the keys of RegionSim are constants; not so in the original.
        zero_init_last_norm: residual branches start at zero, as in SimSiam.
        collapse_threshold: share of the healthy feature std, 1/sqrt(dim), under which we warn.
        pixel_mean: per channel, RGB, 0-255.
        pixel_std: per channel, RGB, 0-255.
    """

    fixed_rate = r"\.predictor\."  # SimSiam: predictors keep their first learning rate

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        level: str = "res5",
        image_weight: float = 1.0,
        pixel_weight: float = 1.0,
        region_weight: float = 0.1,
        image_similarity: str = "cosine",
        pixel_similarity: str = "cross_entropy",
        correspondence: Correspondence = LOCATION,
        dim: int = 2048,
        pixel_dim: int = 2048,
        hidden: int = 512,
        region_start: float = 0.8,
        region_temperature: float = 0.1,
        region_grid: int = 7,
        regions: int | None = 64,
        region_stop_gradient: bool = False,
        zero_init_last_norm: bool = True,
        collapse_threshold: float = 0.1,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        weights = {"image": image_weight, "pixel": pixel_weight, "region": region_weight}
        _check_weights(weights)
        check_counts(dim=dim, pixel_dim=pixel_dim, hidden=hidden, region_grid=region_grid)
        check_regions(region_start, region_temperature)
        if regions is not None:
            check_counts(regions=regions)
        if not collapse_threshold >= 0:
            raise UserError(
                f"collapse_threshold is {collapse_threshold}; it is a share of the healthy feature "
                "std and must not be negative. With 0 nothing is warned of."
            )
        channels = level_channels(backbone, level)
        refuse_frozen(backbone)
        if zero_init_last_norm:
            zero_last_norms(backbone)
        self.views = ViewInput(mean=pixel_mean, std=pixel_std)
        self.backbone, self.level = backbone, level
        self.weights = {part: weight for part, weight in weights.items() if weight}
        self.heads = nn.ModuleDict(
            {
                part: SiameseHead(
                    in_dim=channels,
                    dim=pixel_dim if part == "pixel" else dim,
                    hidden=hidden,
                    convolutional=part == "pixel",
                )
                for part in self.weights
            }
        )
        self.image_similarity = similarity(image_similarity)
        self.pixel_similarity = similarity(pixel_similarity)
        self.correspondence = correspondence
        self.region_start, self.region_temperature = region_start, region_temperature
        self.region_grid, self.regions = region_grid, regions
        self.region_stop_gradient = region_stop_gradient
        self.collapse_threshold = collapse_threshold
        self.progress = 0.0  # share of the run that is done; the trainer sets it

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        siam = cfg.MODEL.DENSE_SIAM
        return {
            "backbone": build_backbone(cfg),
            "image_weight": siam.IMAGE_WEIGHT,
            "pixel_weight": siam.PIXEL_WEIGHT,
            "region_weight": siam.REGION_WEIGHT,
            "image_similarity": siam.IMAGE_SIMILARITY,
            "pixel_similarity": siam.PIXEL_SIMILARITY,
            "correspondence": correspondence(siam.CORRESPONDENCE),
            "dim": siam.DIM,
            "pixel_dim": siam.PIXEL_DIM,
            "hidden": siam.HIDDEN,
            "region_start": siam.REGION_START,
            "region_temperature": siam.REGION_TEMPERATURE,
            "regions": siam.REGIONS or None,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.views.device

    def forward(self, batch: list[dict]) -> dict[str, Tensor]:
        """The weighted losses of a paired batch; metrics go to `log_metric`."""
        features = [self.backbone(self.views(x))[self.level] for x in self.views.stack(batch)]
        losses = {}
        if "image" in self.heads:
            losses["image"] = self._image_loss(features)
        if "pixel" in self.heads:
            geometry = view_geometry(batch, self.device)
            heads = [self.heads["pixel"](x) for x in features]
            views = [
                DenseView(g, x, *head) for g, x, head in zip(geometry, features, heads, strict=True)
            ]
            losses["pixel"] = self._pixel_loss(views)
            if "region" in self.heads:
                losses["region"] = self._region_loss(views)
        return {f"loss_{part}_{self.level}": self.weights[part] * x for part, x in losses.items()}

    def categories(self, images: Tensor) -> Tensor:
        """Pseudo-categories of images (batch, 3, H, W) uint8: the strongest channel, (batch, h, w).

        In eval mode, whatever the mode of the model.
        """
        if "pixel" not in self.heads:
            raise UserError("This model has no pixel part (pixel_weight is 0), so no categories.")
        with eval_mode(self):
            feature = self.backbone(self.views(images.to(self.device)))[self.level]
            head = self.heads["pixel"]
            assert isinstance(head, SiameseHead)
            return head.projector(feature).argmax(dim=1)

    def export(self) -> dict[str, Tensor]:
        """The backbone under bare ResNet names (`res2.0.conv1.weight`), BN statistics too."""
        return export_backbone(self.backbone)

    def _image_loss(self, features: Sequence[Tensor]) -> Tensor:
        heads = [self._rows("image", x.mean(dim=(2, 3))) for x in features]
        self._watch("image", torch.cat([target for target, _ in heads]))
        return symmetric(lambda a, b: -self.image_similarity(a[1], b[0].detach()).mean(), *heads)

    def _pixel_loss(self, views: Sequence[DenseView]) -> Tensor:
        rows = torch.cat([view.target.detach().movedim(1, -1).flatten(0, -2) for view in views])
        self._watch("pixel", rows)
        # How many pseudo-categories are in use: 1 when every place is in the same one.
        share = F.softmax(rows.float(), dim=1).mean(dim=0)
        log_metric("pixel/used_categories", torch.special.entr(share).sum().exp())
        return symmetric(
            lambda a, b: dense_loss(a, b, rule=self.correspondence, measure=self.pixel_similarity),
            *views,
        )

    def _region_loss(self, views: Sequence[DenseView]) -> Tensor:
        """Always on the regular grid of the shared part: both views need masks of the same places,
        whichever rule PixSim follows."""
        if self.progress < self.region_start:
            return waiting([self.heads["region"]])
        logits = [self._on_grid(view.target, view) for view in views]
        features = [self._on_grid(view.features, view) for view in views]
        chosen = None
        if self.regions is not None:
            chosen = shared_regions(logits[0], logits[1], self.regions)
        outs = []
        for logit, feature in zip(logits, features, strict=True):
            regions = region_embeddings(logit, feature, chosen)  # (batch, regions, channels)
            rows = self._rows("region", regions.flatten(0, 1))
            outs.append([x.unflatten(0, regions.shape[:2]) for x in rows])
        self._watch("region", torch.cat([target.flatten(0, 1) for target, _ in outs]))
        return symmetric(lambda a, b: self._contrast(a[1], b[0], views[0].geometry.valid), *outs)

    def _rows(self, part: str, rows: Tensor) -> tuple[Tensor, Tensor]:
        try:
            return self.heads[part](rows)
        except ValueError as error:  # of batch norm, which knows how many rows all processes have
            if len(rows) > 1:
                raise
            raise UserError(
                f"Batch norm of the {part} head cannot train on a single row: a batch needs at "
                "least two images, or SyncBN and several processes. Raise "
                "dataloader.train.total_batch_size."
            ) from error

    def _on_grid(self, feature: Tensor, view: DenseView) -> Tensor:
        points = grid_points(self.region_grid, device=self.device).expand(len(feature), -1, -1)
        places = to_view(points, view.geometry)
        return read(feature, places, side=view.geometry.side).transpose(1, 2)

    def _contrast(self, query: Tensor, key: Tensor, valid: Tensor) -> Tensor:
        if self.region_stop_gradient:
            key = key.detach()
        return mean_over(region_contrast(query, key, temperature=self.region_temperature), valid)

    def _watch(self, part: str, targets: Tensor) -> None:
        """Log the spread of the targets (rows, dim): 0 is collapse, 1/sqrt(dim) is healthy."""
        std = F.normalize(targets.detach().float(), dim=1).std(dim=0, unbiased=False)
        floor = self.collapse_threshold / targets.shape[1] ** 0.5
        log_metric(f"{part}/feature_std", std, warn_below=floor)


def zero_last_norms(backbone: Backbone) -> None:
    """The last norm of every residual branch starts at zero, so that each block is the identity."""
    blocks = [
        module
        for module in backbone.modules()
        if isinstance(module, BasicBlock | BottleneckBlock | DeformBottleneckBlock)
    ]
    last = [block.conv2 if isinstance(block, BasicBlock) else block.conv3 for block in blocks]
    norms = [conv.norm for conv in last]
    if not norms or not all(isinstance(getattr(x, "weight", None), nn.Parameter) for x in norms):
        raise UserError(
            f"zero_init_last_norm found {len(norms)} residual blocks in the backbone "
            f"{type(backbone).__name__}, not all of them with a norm that has a weight; "
            "set norm to 'BN' or zero_init_last_norm to False."
        )
    for norm in norms:
        nn.init.zeros_(norm.weight)


def _check_weights(weights: dict[str, float]) -> None:
    if not all(weight >= 0 for weight in weights.values()) or not any(weights.values()):
        raise UserError(
            "image_weight, pixel_weight and region_weight must not be negative nor all 0, "
            f"but they are {list(weights.values())}."
        )
    if weights["region"] and not weights["pixel"]:
        raise UserError(
            f"region_weight is {weights['region']} but pixel_weight is 0: the regions are the "
            "categories of the pixel projector. Set pixel_weight, or region_weight to 0."
        )
