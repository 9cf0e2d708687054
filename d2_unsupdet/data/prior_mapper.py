"""From a record to an image and its boxes that nobody drew: UP-DETR, DETReg, JoinDet.

Crops are of the image as it is in its file, neither mirrored nor cut, as in the official codes.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.data import transforms as T

from d2_unsupdet.data.box_choice import policy as named_policy
from d2_unsupdet.data.images import NoBoxes, read_image
from d2_unsupdet.data.paste import PasteSmallBoxes
from d2_unsupdet.data.photometric import Photometric
from d2_unsupdet.data.records import identity
from d2_unsupdet.data.region_crops import region_crops
from d2_unsupdet.errors import UserError

if TYPE_CHECKING:
    from d2_unsupdet.priors.found import BoxSource


class PriorMapper:
    """An augmented image, boxes in it, and a small picture of each.

    >>> mapper = PriorMapper(source=RandomBoxes(count=10), augmentations=[])
    >>> sample = mapper({"file_name": "street.jpg", "image_id": 7})
    >>> sample["image"]          # uint8 RGB (3, h, w)
    >>> sample["priors"]         # float32 (M, 4), XYXY in pixels of that image
    >>> sample["crops"]          # uint8 (M, 3, 128, 128), of the image in its file

    An image with too few boxes is `NoBoxes`: the next one takes its place, and the draw is counted.

    Args:
        source: finds the boxes of an image, best first.
        augmentations: Detectron2 augmentations, applied in order to image and boxes.
        count: how many boxes are used, at most.
        policy: which: "top", "sampled" or "random", see `box_choice`.
        exactly: give so many, repeating boxes (with other colours) where there are fewer.
        least: the fewest boxes an image must have, before and after the augmentations.
        crop_size: side of the pictures; 0 leaves them out.
        photometric: colours and blur of the pictures; by default MoCo v2's recipe.
        paste: copies small boxes to other places first.
    """

    def __init__(
        self,
        *,
        source: "BoxSource",
        augmentations: Sequence[T.Augmentation | T.Transform],
        count: int = 30,
        policy: str = "top",
        exactly: int | None = None,
        least: int = 1,
        crop_size: int = 128,
        photometric: Photometric | None = None,
        paste: PasteSmallBoxes | None = None,
    ) -> None:
        if least < 1 or count < least:
            raise UserError(f"least={least} has to lie between 1 and count={count}.")
        self.source, self.augmentations = source, T.AugmentationList(list(augmentations))
        self.count, self.policy = count, named_policy(policy)
        self.exactly, self.least = exactly, least
        self.crop_size, self.paste = crop_size, paste
        self.photometric = Photometric() if photometric is None else photometric

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        rng = np.random.default_rng(int(np.random.randint(2**63 - 1, dtype=np.int64)))
        pixels = read_image(record["file_name"])
        height, width = pixels.shape[:2]
        originals, scores = self._found(record, pixels, rng)
        image, boxes = pixels, originals
        if self.paste is not None:
            image, boxes, sources = self.paste(pixels, originals, rng)
            originals, scores = originals[sources], scores[sources]
        given = T.AugInput(image, boxes=boxes.astype(np.float64))
        self.augmentations(given)
        boxes, kept = clipped(given.boxes, *given.image.shape[:2])
        self._require(len(kept), record, "after the augmentations")
        order = np.arange(len(kept) if self.exactly is None else self.exactly) % len(kept)
        sample = {
            **identity(record),
            "height": height,
            "width": width,
            "image": torch.from_numpy(np.ascontiguousarray(given.image.transpose(2, 0, 1))),
            "priors": torch.from_numpy(boxes[order]),
            "prior_scores": torch.from_numpy(scores[kept[order]]),
        }
        if self.crop_size:
            crops = self._crops(pixels, originals[kept[order]], rng)
            sample["crops"] = torch.from_numpy(crops)
        return sample

    def _found(
        self, record: Mapping[str, Any], pixels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The boxes that are used, in pixels of the file's image, and their scores."""
        found = self.source(record, pixels, rng)
        boxes, inside = clipped(found.boxes, *pixels.shape[:2])
        chosen = self.policy(len(boxes), self.count, rng)
        self._require(len(chosen), record, "found")
        return boxes[chosen], np.asarray(found.scores, np.float32)[inside[chosen]]

    def _require(self, count: int, record: Mapping[str, Any], when: str) -> None:
        if count < self.least:
            reason = f"too few boxes {when}: {count} of at least {self.least}"
            raise NoBoxes(record["file_name"], reason)

    def _crops(self, pixels: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        operations = [self.photometric.draw(rng) for _ in boxes]
        return region_crops(pixels, boxes, size=self.crop_size, operations=operations)


def clipped(boxes_xyxy: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """What an image shows of boxes, float32 (m, 4), and the indices of the m that it shows."""
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    boxes = boxes.clip(0, [width, height, width, height]).astype(np.float32)
    kept = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(1))
    return boxes[kept], kept
