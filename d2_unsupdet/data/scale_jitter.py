"""Large-scale jitter: an image at a tenth to twice its usual size, cut or padded to that size."""

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform, TransformList

from d2_unsupdet.errors import UserError


class LargeScaleJitter(T.Augmentation):
    """Copy-paste's jitter (arXiv:2012.07177), which JoinDet adds since its boxes are mostly large.

    >>> augmentations = [T.RandomFlip(), LargeScaleJitter(size=(480, 600))]

    Args:
        size: height and width that the image fits into at scale 1, and that is cut out.
        scale: least and greatest scale, drawn evenly.
        pad: fill up smaller images with grey to `size`. False: they stay small, and the batch pads
            them where the detector's mask says so.
    """

    def __init__(
        self, *, size: tuple[int, int], scale: tuple[float, float] = (0.1, 2.0), pad: bool = True
    ) -> None:
        super().__init__()
        if not 0 < scale[0] <= scale[1]:
            raise UserError(f"scale={tuple(scale)} is no range: give the least, then the greatest.")
        self.size, self.pad = (int(size[0]), int(size[1])), pad
        self.least, self.most = scale

    def get_transform(self, image: np.ndarray) -> Transform:
        # T.ResizeScale rounds long images to no pixels at all.
        height, width = image.shape[:2]
        scale = np.random.uniform(self.least, self.most)
        fit = min(self.size[0] / height, self.size[1] / width) * scale
        resized = max(1, round(height * fit)), max(1, round(width * fit))
        resize = T.ResizeTransform(height, width, *resized)
        blank = np.broadcast_to(image[:1, :1], (*resized, 3))  # only its shape counts
        cut = T.FixedSizeCrop(self.size, pad=self.pad).get_transform(blank)
        return TransformList([resize, cut])
