"""The pretraining colours as a Detectron2 augmentation, for finetuning on few labels."""

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform

from d2_unsupdet.data.photometric import Photometric


class RandomPhotometric(T.Augmentation):
    """Jitter, grey and blur of `Photometric`, drawn anew for each image; boxes stay.

    >>> augmentations = [T.RandomFlip(), RandomPhotometric(photometric=Photometric(hue=0.5))]

    Args:
        photometric: the ranges; by default MoCo v2's recipe. The image must be RGB.
    """

    def __init__(self, *, photometric: Photometric | None = None) -> None:
        super().__init__()
        self.photometric = Photometric() if photometric is None else photometric

    def get_transform(self, image: np.ndarray) -> Transform:
        # From NumPy's global state, as Detectron2's own: the data set seeds it for each sample.
        rng = np.random.default_rng(np.random.randint(2**31))
        operations = self.photometric.draw(rng)
        return T.ColorTransform(lambda pixels: self.photometric.apply(pixels, operations))
