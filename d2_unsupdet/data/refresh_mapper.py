"""What a refresh of JoinDet's boxes sees of an image: the reader of training, at one size.

Every record has an answer. One that was left out would have no boxes in the store, and training,
which reads the image, would not find it there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T

from d2_unsupdet.data.images import BadImage, read_image
from d2_unsupdet.data.records import identity


class RefreshMapper:
    """An image for the model, or the reason why there is nothing to look at.

    >>> sample = RefreshMapper(augmentations=[T.ResizeShortestEdge(480, 800)])(record)
    >>> sample["image"]              # uint8 RGB (3, h, w); absent where `reason` is
    >>> sample["width"]              # of the upright file, whatever the record says; absent where
    >>> sample["recorded"]           # the file cannot be read: then only this, (width, height)

    Args:
        augmentations: Detectron2 augmentations that draw nothing, applied in order.
        max_aspect: nothing is looked for in images longer than this many times their width (or the
            reverse): resized to a usual length they would be a line.
    """

    def __init__(
        self, *, augmentations: Sequence[T.Augmentation | T.Transform], max_aspect: float = 100
    ) -> None:
        self.augmentations = T.AugmentationList(list(augmentations))
        self.max_aspect = max_aspect

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        sample = identity(record)
        sample["recorded"] = (record.get("width") or 0, record.get("height") or 0)
        try:
            pixels = read_image(record["file_name"])
        except BadImage as error:
            return {**sample, "reason": error.reason}
        height, width = pixels.shape[:2]
        sample |= {"height": height, "width": width}
        if max(width, height) > self.max_aspect * min(width, height):
            reason = f"{width}x{height} pixels, one side over {self.max_aspect:g} times the other"
            return {**sample, "reason": reason}
        given = T.AugInput(pixels)
        self.augmentations(given)
        image = np.ascontiguousarray(given.image.transpose(2, 0, 1))
        return {**sample, "image": torch.from_numpy(image)}
