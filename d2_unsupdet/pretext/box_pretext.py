"""What all pretexts of whole detectors share: boxes as targets, crops, a frozen teacher, export.

They call the five steps of a DETR-style detector and know nothing else about it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from d2_unsupdet.detectors.detr import DETR
from d2_unsupdet.detectors.structures import Match, Matches, Target
from d2_unsupdet.errors import UserError
from d2_unsupdet.pretext.target_encoder import Teacher, embed_crops, embedding_width, is_frozen

Sample = dict[str, Any]
Losses = dict[str, Tensor]
DROPPED = ("heads.classes.", "query_source.denoising.labels.")  # they name the pretext's one class


class BoxPretext(nn.Module, ABC):
    """Base of UP-DETR, DETReg, Siamese DETR and JoinDet.

    In evaluation it answers as the detector does: boxes of one class, without finetuning.

    Args:
        detector: to pretrain, with one class ("object").
        levels: of the backbone, whose means over a crop are the embedding to predict.
        label: class index of "object"; the originals have it at 1, beside unused classes.
        denoising: detectors with denoising queries use them, on the boxes of the decoded image.
    """

    def __init__(
        self, *, detector: DETR, levels: Sequence[str], label: int = 0, denoising: bool = True
    ) -> None:
        super().__init__()
        if not 0 <= label < detector.heads.num_classes:
            raise UserError(
                f"label={label} is no class of the detector, which has "
                f"{detector.heads.num_classes}: set label below model.detector.heads.num_classes."
            )
        self.detector, self.label, self.denoising = detector, label, denoising
        self.levels = list(levels)
        self.embedding_dim = embedding_width(detector.backbone, self.levels)
        # The teacher of a frozen backbone is that backbone.
        self.teacher = None if is_frozen(detector.backbone) else Teacher(detector.backbone)
        self._begun = False

    @property
    def device(self) -> torch.device:
        return self.detector.device

    def begin(self, *, loaded: bool = True) -> None:
        """A run starts from these weights: the teacher is a copy of them from here on.

        Other trainers need not call it: the first training step does.

        Args:
            loaded: whether they come from a file.
        """
        fixed = [n for n, p in self.detector.backbone.named_parameters() if not p.requires_grad]
        if fixed and not loaded:
            raise UserError(
                f"The backbone is frozen at random weights ({fixed[0]} and {len(fixed) - 1} more): "
                "give a file as train.init_checkpoint, or train all of it with "
                "model.detector.backbone.freeze_at=0."
            )
        if self.teacher is not None:
            self.teacher.adopt(self.detector.backbone)
        self._begun = True

    def forward(self, batch: Sequence[Sample]) -> Any:
        if not self.training:
            return self.detector(batch)
        if not self._begun:
            self._begun = True  # the one look at a tensor of the device
            if self.teacher is not None and not self.teacher.chosen:
                self.teacher.adopt(self.detector.backbone)
        return self.losses(batch)

    @abstractmethod
    def losses(self, batch: Sequence[Sample]) -> Losses:
        """Weighted losses of a batch."""

    def export(self) -> dict[str, Tensor]:
        """The detector without what only the pretext's class needs."""
        state = self.detector.state_dict()
        return {n: t.detach().clone() for n, t in state.items() if not n.startswith(DROPPED)}

    def targets(
        self, images: Sequence[Tensor], boxes: Sequence[Tensor], names: Sequence[str]
    ) -> list[Target]:
        """One class of objects from XYXY boxes in pixels of images (3, h, w)."""
        result = []
        for image, found, name in zip(images, boxes, names, strict=True):
            height, width = image.shape[-2:]
            scale = found.new_tensor([width, height, width, height])
            normal = box_convert((found / scale).clamp(0, 1), "xyxy", "cxcywh")
            labels = torch.full((len(found),), self.label)
            result.append(
                Target(
                    labels.to(self.device, non_blocking=True),
                    normal.to(self.device, non_blocking=True),
                    name,
                )
            )
        return result

    def embed(self, crops: Tensor) -> Tensor:
        """Frozen embeddings (n, C) of uint8 crops (n, 3, s, s)."""
        crops = crops.to(self.device, non_blocking=True)
        normal = (crops - self.detector.pixel_mean) / self.detector.pixel_std
        source = self.detector.backbone if self.teacher is None else self.teacher.backbone
        return embed_crops(source, normal, self.levels)


def name_of(sample: Sample) -> str:
    """How messages call the image."""
    return str(sample.get("file_name", sample.get("image_id", "?")))


def field(batch: Sequence[Sample], key: str, mapper: str) -> list[Any]:
    """An entry of every sample, or a sentence about who should have put it there."""
    for sample in batch:
        if key not in sample:
            raise UserError(
                f"The sample of {name_of(sample)} has no '{key}': this pretext needs {mapper} as "
                "dataloader.train.mapper."
            )
    return [sample[key] for sample in batch]


def matched_layers(matches: Matches, auxiliary: bool) -> tuple[int, list[Match]]:
    """The first layer that is taught, and the matches from there on."""
    layers = matches.layers if auxiliary else matches.layers[-1:]
    return len(matches.layers) - len(layers), layers
