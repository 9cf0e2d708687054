"""The one composition behind six detectors, in the five steps that pretexts call.

DETR (arXiv:2005.12872), Conditional DETR (2108.06152), Deformable DETR (2010.04159),
DAB-Deformable-DETR (2201.12329), DN-DAB-Deformable-DETR (2203.01305) and DETA (2212.06137).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torchvision.ops import box_convert

from d2_unsupdet.detectors.backbone import DetrResNet
from d2_unsupdet.detectors.criterion import Criterion
from d2_unsupdet.detectors.decoder import Decoder
from d2_unsupdet.detectors.encoder import Encoder
from d2_unsupdet.detectors.heads import Heads
from d2_unsupdet.detectors.neck import Neck, resized_mask
from d2_unsupdet.detectors.postprocess import BestClass, SuppressedPairs, TopPairs
from d2_unsupdet.detectors.proposals import Proposals
from d2_unsupdet.detectors.queries import LearnedAnchors, LearnedQueries, ProposalQueries
from d2_unsupdet.detectors.structures import (
    Decoded,
    Encoded,
    Features,
    Matches,
    Queries,
    Regions,
    Target,
)
from d2_unsupdet.detectors.transfer import to_device
from d2_unsupdet.errors import UserError


@META_ARCH_REGISTRY.register()
class DETR(nn.Module):
    """Backbone, encoder, queries, decoder and criterion, each a part that the config chooses.

    >>> config = load_config("configs/finetune/coco/detr_r50_300ep.py").model
    >>> config.heads.num_classes = 80      # "auto" waits for a data set
    >>> model = instantiate(config)
    >>> losses = model(batch)              # in training
    >>> detections = model(batch)          # in evaluation: Detectron2's list of {"instances": ...}

    Args:
        backbone: any Detectron2 backbone.
        in_features: its maps, fine to coarse.
        neck: makes levels of one width of them.
        position: of the cells of a level.
        encoder: over the tokens of all levels.
        proposals: the encoder stage of two-stage detectors.
        query_source: where queries come from.
        decoder: from queries to hidden states.
        heads: from hidden states to logits and boxes.
        criterion: assignment and losses.
        postprocess: from the last layer to detections.
        pixel_mean, pixel_std: per channel, in 0-255.
        input_format: of the images, "RGB" or "BGR".
        size_divisibility: pad batches to a multiple of it; the originals pad to the largest image.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str],
        neck: Neck,
        position: nn.Module,
        encoder: Encoder,
        query_source: LearnedQueries | LearnedAnchors | ProposalQueries,
        decoder: Decoder,
        heads: Heads,
        criterion: Criterion,
        postprocess: BestClass | TopPairs | SuppressedPairs,
        proposals: Proposals | None = None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
        size_divisibility: int = 0,
    ) -> None:
        super().__init__()
        self.backbone, self.in_features = backbone, list(in_features)
        self.neck, self.position = neck, position
        self.encoder, self.proposals = encoder, proposals
        self.query_source, self.decoder, self.heads = query_source, decoder, heads
        self.criterion, self.postprocess = criterion, postprocess
        self.input_format, self.size_divisibility = input_format, size_divisibility
        for name, value in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            column = torch.tensor(list(value), dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, column, persistent=False)
        self._check()

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        from d2_unsupdet.detectors.yaml_parts import parts_of

        return parts_of(cfg, cls.__name__)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batch: Sequence[dict[str, Any]]) -> Any:
        images = self.preprocess(batch)
        targets = self.targets(batch) if self.training else None
        encoded = self.encode(self.features(images))
        queries = self.queries(encoded, targets=targets)
        decoded = self.decode(encoded, queries)
        if targets is not None:
            return self.losses(decoded, encoded, queries, targets)[0]
        return self.answers(decoded, images, batch)

    def preprocess(self, batch: Sequence[dict[str, Any]]) -> ImageList:
        """Normalised images, padded with zeros at the bottom and the right."""
        images = [
            (sample["image"].to(self.device, non_blocking=True) - self.pixel_mean) / self.pixel_std
            for sample in batch
        ]
        return ImageList.from_tensors(images, self.size_divisibility)

    def targets(self, batch: Sequence[dict[str, Any]]) -> list[Target]:
        """The batch's objects, on the device."""
        result = []
        for sample in batch:
            name = str(sample.get("file_name", sample.get("image_id", "?")))
            if "instances" not in sample:
                raise UserError(f"Image {name} has no 'instances': is its data set labelled?")
            instances = sample["instances"]
            labels, boxes = instances.gt_classes, instances.gt_boxes.tensor
            for label in (labels.min(), labels.max()) if len(labels) else ():
                if not 0 <= int(label) < self.heads.num_classes:
                    raise UserError(
                        f"Image {name} has an object of class {int(label)}, the model's are 0 to "
                        f"{self.heads.num_classes - 1}: set model.heads.num_classes to the data's."
                    )
            height, width = instances.image_size
            scale = boxes.new_tensor([width, height, width, height])
            boxes = box_convert(boxes / scale, "xyxy", "cxcywh")
            result.append(
                Target(
                    labels.to(self.device, non_blocking=True),
                    boxes.to(self.device, non_blocking=True),
                    name,
                )
            )
        return result

    def features(self, images: ImageList) -> Features:
        """Backbone maps and which pixels are padding."""
        tensor = images.tensor
        if isinstance(self.backbone, DetrResNet):
            maps = self.backbone(tensor, images.image_sizes)
        else:
            maps = self.backbone(tensor)
        sizes = to_device(images.image_sizes, tensor.device, torch.int64)
        rows = torch.arange(tensor.shape[-2], device=tensor.device)
        columns = torch.arange(tensor.shape[-1], device=tensor.device)
        outside_y = rows >= sizes[:, :1]
        outside_x = columns >= sizes[:, 1:]
        mask = outside_y[:, :, None] | outside_x[:, None]
        return Features([maps[name] for name in self.in_features], mask, sizes)

    def encode(self, features: Features) -> Encoded:
        """Tokens of all levels that have seen each other, and proposals of two-stage detectors."""
        silent = getattr(self.backbone, "mask_padding", False)
        maps = self.neck(features.maps, features.mask if silent else None)
        masks = [resized_mask(features.mask, (m.shape[-2], m.shape[-1])) for m in maps]
        encoded = self.encoder(maps, masks, [self.position(mask) for mask in masks])
        if self.proposals is None:
            return encoded
        return replace(encoded, proposals=self.proposals(encoded))

    def queries(
        self,
        encoded: Encoded,
        regions: Tensor | Regions | None = None,
        targets: list[Target] | None = None,
    ) -> Queries:
        """Decoder input; `regions` (B, M, C) condition it, `targets` are for denoising."""
        batch, _, dim = encoded.memory.shape
        if isinstance(regions, Tensor):
            regions = Regions(regions)
        if regions is not None:
            images, _, channels = regions.values.shape
            if (images, channels) != (batch, dim):
                raise UserError(
                    f"regions are {tuple(regions.values.shape)}, and the encoder gave {batch} "
                    f"images of {dim} channels: pass ({batch}, M, {dim})."
                )
        return self.query_source(encoded, regions, targets)

    def decode(self, encoded: Encoded, queries: Queries) -> Decoded:
        """Hidden states, logits and boxes of every layer."""
        return self.decoder(encoded, queries, self.heads)

    def losses(
        self,
        decoded: Decoded,
        encoded: Encoded,
        queries: Queries,
        targets: Sequence[Target],
        allowed: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], Matches]:
        """Weighted losses and the matches; `allowed` (N, M): which query may take which target."""
        if len(targets) != decoded.boxes.shape[1]:
            raise UserError(
                f"There are {len(targets)} targets for {decoded.boxes.shape[1]} images: pass one "
                "for each image, without objects where it has none."
            )
        return self.criterion(
            decoded, encoded, targets, denoising=queries.denoising, allowed=allowed
        )

    def answers(
        self, decoded: Decoded, images: ImageList, batch: Sequence[dict[str, Any]]
    ) -> list[dict[str, Instances]]:
        """Detectron2's output: the last layer's detections in the pixels of the files."""
        sizes = images.image_sizes
        # Detectron2 scales the boxes in place, which autograd would refuse.
        last = decoded.logits[-1].detach(), decoded.boxes[-1].detach()
        found = self.postprocess(*last, sizes)
        results = []
        for one, size, sample in zip(found, sizes, batch, strict=True):
            instances = Instances(
                size, pred_boxes=Boxes(one.boxes), scores=one.scores, pred_classes=one.labels
            )
            height, width = sample.get("height", size[0]), sample.get("width", size[1])
            results.append({"instances": detector_postprocess(instances, height, width)})
        return results

    def _check(self) -> None:
        """Parts that do not belong together are said before the first step."""
        two_stage = isinstance(self.query_source, ProposalQueries)
        if two_stage != (self.proposals is not None):
            raise UserError(
                "model.proposals and ProposalQueries belong together: set both for a two-stage "
                "detector, neither for another."
            )
        if self.heads.background != self.criterion.classification.background:
            raise UserError(
                f"model.heads.background={self.heads.background} does not fit "
                f"{type(self.criterion.classification).__name__}: SoftmaxLoss needs a background "
                "class, FocalLoss has none."
            )


@META_ARCH_REGISTRY.register()
class ConditionalDETR(DETR):
    """DETR whose cross-attention looks for content and for a place apart."""


@META_ARCH_REGISTRY.register()
class DeformableDETR(DETR):
    """DETR that reads a few points of several levels; with refinement and two stages as options."""


@META_ARCH_REGISTRY.register()
class DABDeformableDETR(DETR):
    """Deformable DETR whose queries are boxes from the start."""


@META_ARCH_REGISTRY.register()
class DNDABDeformableDETR(DETR):
    """DAB-Deformable-DETR that also learns to repair noised ground truth."""


@META_ARCH_REGISTRY.register()
class DETA(DETR):
    """Two-stage Deformable DETR with overlap assignment and non-maximum suppression."""
