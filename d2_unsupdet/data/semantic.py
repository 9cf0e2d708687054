"""Semantic segmentation: an image and its label map, through the same augmentations.

Labels stay bytes until they are on the device: as int64 a batch of 16 Cityscapes crops would carry
76 MB through the loader instead of 9.5.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from fvcore.transforms.transform import CropTransform, PadTransform, Transform, TransformList

from d2_unsupdet.data.images import BadImage, read_image, read_label_map
from d2_unsupdet.data.records import identity
from d2_unsupdet.errors import UserError


class ScaledCrop(T.Augmentation):
    """A square cut from an image at a random scale; what is missing is grey and has no label.

    >>> augmentations = [ScaledCrop(size=769), T.RandomFlip()]

    Args:
        size: side of the square in pixels.
        scale: least and greatest scale of the image, drawn evenly.
        ignore_label: label of the padding, right and below.
    """

    def __init__(
        self, *, size: int, scale: tuple[float, float] = (0.5, 2.0), ignore_label: int = 255
    ) -> None:
        super().__init__()
        if not 0 < scale[0] <= scale[1]:
            raise UserError(f"scale={tuple(scale)} is no range: give the least, then the greatest.")
        self.size, self.ignore_label = int(size), ignore_label
        self.least, self.most = scale

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        factor = np.random.uniform(self.least, self.most)
        scaled = max(1, round(height * factor)), max(1, round(width * factor))
        # T.FixedSizeCrop draws one number for both axes, so that crops lie on a diagonal.
        top, left = (np.random.randint(max(0, side - self.size) + 1) for side in scaled)
        shown = min(self.size, scaled[0]), min(self.size, scaled[1])
        return TransformList(
            [
                T.ResizeTransform(height, width, *scaled),
                CropTransform(left, top, shown[1], shown[0]),
                PadTransform(
                    0,
                    0,
                    self.size - shown[1],
                    self.size - shown[0],
                    pad_value=128,
                    seg_pad_value=self.ignore_label,
                ),
            ]
        )


class SemanticMapper:
    """An augmented image and the label of each of its pixels.

    >>> sample = SemanticMapper(augmentations=[ScaledCrop(size=769)])(record)
    >>> sample["image"]       # uint8 (3, 769, 769)
    >>> sample["sem_seg"]     # uint8 (769, 769), where the record names a label map

    Args:
        augmentations: Detectron2 augmentations, applied in order; none leave the original size.
        num_classes: labels from here on, except `ignore_label`, are an error; None does not look.
        ignore_label: the label that is no class.
        image_format: "RGB" or "BGR", as the model was trained.
        labelled: whether an image without a label map is an error; training cannot use it.
    """

    def __init__(
        self,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform] = (),
        num_classes: int | None = None,
        ignore_label: int = 255,
        image_format: str = "RGB",
        labelled: bool = True,
    ) -> None:
        self.augmentations = T.AugmentationList(list(augmentations))
        self.num_classes, self.ignore_label = num_classes, ignore_label
        self.image_format, self.labelled = image_format, labelled

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        image = read_image(record["file_name"], format=self.image_format)
        height, width = image.shape[:2]
        inputs = T.AugInput(image, sem_seg=self._labels(record, height, width))
        self.augmentations(inputs)
        pixels = np.ascontiguousarray(inputs.image.transpose(2, 0, 1))
        sample = {**identity(record), "image": torch.from_numpy(pixels)}
        sample |= {"height": height, "width": width}
        if inputs.sem_seg is not None:
            sample["sem_seg"] = torch.from_numpy(np.ascontiguousarray(inputs.sem_seg))
        return sample

    def _labels(self, record: Mapping[str, Any], height: int, width: int) -> np.ndarray | None:
        if "sem_seg_file_name" not in record:
            if self.labelled:
                raise UserError(
                    f"{record['file_name']} has no label map, and this config trains on label "
                    "maps: give a data set of semantic segmentation as "
                    "dataloader.train.dataset.names (sem_seg:LABELS@IMAGES)."
                )
            return None
        path = record["sem_seg_file_name"]
        labels = read_label_map(path)
        if labels.shape != (height, width):
            raise BadImage(
                path,
                f"the label map has {labels.shape[1]}x{labels.shape[0]} pixels, its image "
                f"{width}x{height}",
            )
        self._check(labels, path)
        if labels.dtype == np.uint8:
            return labels
        if labels.min() < 0 or labels.max() > 255:
            raise UserError(
                f"The label map {path} has values from {labels.min()} to {labels.max()}; labels "
                "are bytes, 0 to 255."
            )
        return labels.astype(np.uint8)

    def _check(self, labels: np.ndarray, path: str) -> None:
        if self.num_classes is None:
            return
        wrong = labels[(labels >= self.num_classes) & (labels != self.ignore_label)]
        if wrong.size:
            raise UserError(
                f"The label map {path} has the value {int(wrong[0])}, but the data set has "
                f"{self.num_classes} classes, 0 to {self.num_classes - 1}, and "
                f"{self.ignore_label} for no class: name all classes in classes.txt, or mend the "
                "map."
            )
