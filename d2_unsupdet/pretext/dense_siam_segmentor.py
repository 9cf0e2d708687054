"""DenseSiam's unsupervised semantic segmentation (arXiv:2203.11075, USS mode of the official code).

Clusters of pixels are learned from two views whose cells all correspond: view 1 is transformed as
an image, view 2 as a feature map. The clusters get names only in the evaluation.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.utils import comm
from torch import Tensor, nn

from d2_unsupdet.errors import UserError
from d2_unsupdet.metrics import log_metric
from d2_unsupdet.pretext.backbones import export_backbone, refuse_frozen
from d2_unsupdet.pretext.fpn_decoder import FPNDecoder
from d2_unsupdet.pretext.images import IMAGENET_MEAN, IMAGENET_STD, ViewInput
from d2_unsupdet.pretext.overlap import ViewGeometry, view_geometry
from d2_unsupdet.pretext.projectors import siamese_predictor, siamese_projector
from d2_unsupdet.pretext.regions import region_contrast, region_embeddings
from d2_unsupdet.pretext.siamese import (
    check_counts,
    check_regions,
    eval_mode,
    symmetric,
    waiting,
)
from d2_unsupdet.pretext.similarity import similarity

_cross_entropy = similarity("cross_entropy")


@META_ARCH_REGISTRY.register()
class DenseSiamSegmentor(nn.Module):
    """Semantic segmentation without labels.

    ::

        model = DenseSiamSegmentor(backbone=resnet18, num_classes=27)
        losses = model(batch)  # of a ReplayedViewMapper
        model.eval()
        clusters = model([{"image": image}])[0]["sem_seg"].argmax(dim=0)  # (H, W)

    Args:
        backbone: Detectron2 ResNet with trainable BN and nothing frozen; all of its outputs are
            decoded.
        num_classes: clusters. A free choice: the evaluator assigns classes to them, so it need not
            be the number of classes, which is what "auto" in a config means.
        aux_classes: clusters of the auxiliary, finer clustering.
        channels: of the decoded features, and width of every head.
        pixel_weight: of PixSim on the clusters.
        aux_weight: of PixSim on the finer clusters. Both "auto": ln(aux_classes) and
            ln(num_classes), each divided by their sum, so that two losses whose scales are the
            logarithms of their sizes weigh the same.
        seg_weight: of self-labelling, the cross-entropy with the own strongest cluster.
        rebalance: weigh the cells of self-labelling by how frequent their cluster is in the batch
            of all processes. Frequent ones weigh more, as in the official code.
        region_weight: of RegionSim.
        region_start: share of the run after which RegionSim is on, in [0, 1]; never with 1.
        region_temperature: divides the similarities of regions, above 0.
        pixel_mean: per channel, RGB, 0-255.
        pixel_std: per channel, RGB, 0-255.
    """

    free_class_count = True  # the checks of a config accept any num_classes

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int = 27,
        aux_classes: int = 128,
        channels: int = 128,
        pixel_weight: float | str = "auto",
        aux_weight: float | str = "auto",
        seg_weight: float = 1.0,
        rebalance: bool = True,
        region_weight: float = 0.1,
        region_start: float = 0.8,
        region_temperature: float = 0.1,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        refuse_frozen(backbone)
        check_counts(2, num_classes=num_classes, aux_classes=aux_classes)
        check_counts(channels=channels)
        check_regions(region_start, region_temperature)
        pixel_weight, aux_weight = _weights(pixel_weight, aux_weight, num_classes, aux_classes)
        self.weights = {
            "pixel": pixel_weight,
            "aux": aux_weight,
            "seg": float(seg_weight),
            "region": float(region_weight),
        }
        if not all(weight >= 0 for weight in self.weights.values()):
            raise UserError(f"A weight of a loss must not be negative: {self.weights}.")
        self.views = ViewInput(mean=pixel_mean, std=pixel_std)
        self.backbone = backbone
        self.decoder = FPNDecoder(input_shape=backbone.output_shape(), channels=channels)
        # Named as in the official code, which says kernel_ where we say region_.
        self.projector = _projector(channels, num_classes)
        self.predictor = _predictor(num_classes, channels)
        self.aux_projector = _projector(channels, aux_classes)
        self.aux_predictor = _predictor(aux_classes, channels)
        self.region_projector = siamese_projector((channels,) * 4)
        self.region_predictor = siamese_predictor(channels, channels)
        self.num_classes, self.rebalance = num_classes, rebalance
        self.region_start, self.region_temperature = region_start, region_temperature
        self.progress = 0.0  # share of the run that is done; the trainer sets it

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            "backbone": build_backbone(cfg),
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.views.device

    def forward(self, batch: list[dict]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Training: the weighted losses. Evaluation: `sem_seg` (clusters, height, width) of each
        image, at the `height` and `width` that its dict asks for."""
        if not self.training:
            return self.inference(batch)
        images = self.views.stack(batch)
        geometry = view_geometry(batch, self.device)
        first, second = (self.decoder(self.backbone(self.views(x))) for x in images)
        return self.losses(first, replay(second, *geometry))

    def losses(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """The weighted losses of two feature maps (batch, channels, h, w) of the same cells."""
        features = (first, second)
        targets = [self.projector(x) for x in features]
        predictions = [self.predictor(x) for x in targets]
        aux_targets = [self.aux_projector(x) for x in features]
        aux_predictions = [self.aux_predictor(x) for x in aux_targets]
        self._watch(torch.cat(targets))
        losses = {
            "pixel": symmetric(_pixels, *zip(predictions, targets, strict=True)),
            "aux": symmetric(_pixels, *zip(aux_predictions, aux_targets, strict=True)),
            "seg": (self._self_labelling(targets[0]) + self._self_labelling(targets[1])) / 2,
            "region": self._region_loss(targets, features),
        }
        return {f"loss_{name}": self.weights[name] * loss for name, loss in losses.items()}

    @torch.no_grad()
    def inference(self, batch: list[dict]) -> list[dict[str, Tensor]]:
        """Strengths of the clusters in images of any sizes. Images of one size share a forward;
        nothing is padded, so that an image's result does not depend on its neighbours."""
        images = [sample["image"].to(self.device) for sample in batch]
        if len({image.shape for image in images}) == 1:
            logits = list(self._logits(torch.stack(images)))
        else:
            logits = [self._logits(image[None])[0] for image in images]
        return [
            {"sem_seg": _resized(x, sample, image)}
            for x, sample, image in zip(logits, batch, images, strict=True)
        ]

    def categories(self, images: Tensor) -> Tensor:
        """Clusters of images (batch, 3, H, W) uint8 at the stride of the decoder, (batch, h, w).

        In eval mode, whatever the mode of the model.
        """
        with eval_mode(self):
            return self._logits(images.to(self.device)).argmax(dim=1)

    def export(self) -> dict[str, Tensor]:
        """The backbone under bare ResNet names (`res2.0.conv1.weight`), BN statistics too."""
        return export_backbone(self.backbone)

    def _logits(self, images: Tensor) -> Tensor:
        return self.projector(self.decoder(self.backbone(self.views(images))))

    def _self_labelling(self, target: Tensor) -> Tensor:
        with torch.autocast(target.device.type, enabled=False):
            logits = target.to(torch.promote_types(target.dtype, torch.float32))
            labels = logits.detach().argmax(dim=1)
            loss = F.cross_entropy(logits, labels, reduction="none")
            if self.rebalance:
                loss = loss * _frequencies(labels, self.num_classes).to(loss.dtype)[labels]
            return loss.mean()

    def _region_loss(self, targets: Sequence[Tensor], features: Sequence[Tensor]) -> Tensor:
        if self.progress < self.region_start or not self.weights["region"]:
            return waiting([self.region_projector, self.region_predictor])
        outs = []  # query and key of each view
        for target, feature in zip(targets, features, strict=True):
            regions = region_embeddings(target.flatten(2), feature.flatten(2))
            rows = self.region_projector(regions.flatten(0, 1))  # (batch * clusters, channels)
            both = self.region_predictor(rows), rows
            outs.append([x.unflatten(0, regions.shape[:2]) for x in both])
        return symmetric(lambda a, b: self._contrast(a[0], b[1]), *outs)

    def _contrast(self, query: Tensor, key: Tensor) -> Tensor:
        return region_contrast(query, key, temperature=self.region_temperature).mean()

    @torch.no_grad()
    def _watch(self, targets: Tensor) -> None:
        """How many clusters are in use: all cells in one of them is the collapse of this method."""
        share = _histogram(targets.argmax(dim=1), self.num_classes) / targets[:, 0].numel()
        perplexity = torch.special.entr(share).sum().exp()
        log_metric("clusters/perplexity", perplexity, warn_below=min(2.0, self.num_classes / 2))
        log_metric("clusters/used", (share > 1e-3).sum())
        log_metric("clusters/confidence", targets.float().softmax(dim=1).amax(dim=1))


def replay(feature: Tensor, first: ViewGeometry, second: ViewGeometry) -> Tensor:
    """The second view's map, (batch, channels, h, w), cropped, resized and mirrored as the first.

    Bilinear in edge coordinates (`align_corners=False`) and without a look over the crop's edge:
    exactly `F.interpolate` of the sliced crop where that begins and ends between cells. Elsewhere
    the crop is read where it is; the official code rounds it to cells.

    Args:
        feature: of the second view.
        first: its box must be the whole view: the second view shows at least what it shows.
        second: its box is what the first view shows.
    """
    height, width = feature.shape[-2:]
    mirrored = (first.flipped != second.flipped)[:, None]
    x = _places(width, feature.device).expand(len(feature), -1)
    x = torch.where(mirrored, 1 - x, x)
    y = _places(height, feature.device).expand(len(feature), -1)
    box = second.boxes.to(x.dtype) / second.side  # (batch, 4), shares of the view
    grid_x = _read_places(x, box[:, 0], box[:, 2], width)
    grid_y = _read_places(y, box[:, 1], box[:, 3], height)
    grid = torch.stack(
        torch.broadcast_tensors(grid_x[:, None, :], grid_y[:, :, None]), dim=-1
    )  # (batch, h, w, 2)
    with torch.autocast(feature.device.type, enabled=False):  # 8 bits of mantissa cannot tell cells
        feature = feature.to(torch.promote_types(feature.dtype, torch.float32))
        grid = grid.to(feature.dtype)
        return F.grid_sample(feature, grid, align_corners=False, padding_mode="border")


def _places(cells: int, device: torch.device) -> Tensor:
    """Centres of cells as shares of the whole, in double: what follows is rounded once."""
    return (torch.arange(cells, device=device, dtype=torch.float64) + 0.5) / cells


def _read_places(places: Tensor, low: Tensor, high: Tensor, cells: int) -> Tensor:
    """Places of the crop (batch, cells) in the map, from -1 to 1; kept half a cell inside it."""
    low, high = low[:, None], high[:, None]
    half = torch.minimum((high - low) / 2, torch.full_like(low, 0.5 / cells))
    inside = (low + places * (high - low)).clamp(low + half, high - half)
    return 2 * inside - 1


def _pixels(query: Sequence[Tensor], key: Sequence[Tensor]) -> Tensor:
    """PixSim: mean cross-entropy of the softmaxes of one view's prediction and the other's target.

    Args:
        query: prediction and target of a view, (batch, channels, h, w) each.
        key: the same of the other view.
    """
    prediction, target = query[0], key[1].detach()
    return -_cross_entropy(prediction.movedim(1, -1), target.movedim(1, -1)).mean()


def _histogram(labels: Tensor, classes: int) -> Tensor:
    """Cells a class, (classes,). Not bincount, which waits for the device."""
    flat = labels.flatten()
    counts = torch.zeros(classes, device=flat.device, dtype=flat.dtype)
    return counts.scatter_add_(0, flat, torch.ones_like(flat))


@torch.no_grad()
def _frequencies(labels: Tensor, classes: int) -> Tensor:
    """Share of each class among the cells of all ranks, (classes,)."""
    counts = _histogram(labels, classes)
    if comm.get_world_size() > 1:
        dist.all_reduce(counts)
    return counts / counts.sum()


def _projector(channels: int, classes: int) -> nn.Sequential:
    dims = (channels, channels, channels, classes)
    return siamese_projector(dims, convolutional=True, last_bias=True)


def _predictor(classes: int, hidden: int) -> nn.Sequential:
    return siamese_predictor(classes, hidden, convolutional=True)


def _resized(logits: Tensor, sample: dict, image: Tensor) -> Tensor:
    size = sample.get("height", image.shape[-2]), sample.get("width", image.shape[-1])
    logits = logits[None].float()
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)[0]


def _weights(
    pixel: float | str, aux: float | str, classes: int, aux_classes: int
) -> tuple[float, float]:
    """ln 128 / (ln 128 + ln 27) = 0.5955 and its complement at the official sizes."""
    if (pixel == "auto") != (aux == "auto"):
        raise UserError(
            f"pixel_weight={pixel!r} and aux_weight={aux!r}: both are 'auto', or both numbers."
        )
    if pixel == "auto":
        total = math.log(classes) + math.log(aux_classes)
        return math.log(aux_classes) / total, math.log(classes) / total
    try:
        return float(pixel), float(aux)
    except ValueError as error:
        raise UserError(
            f"pixel_weight={pixel!r} and aux_weight={aux!r} must be numbers or 'auto'."
        ) from error
