"""From a record to two overlapping views with ten regions each (Siamese DETR, CVPR 2023).

The order is the official one: resize, flip once for both, cut, choose boxes, take crops, and only
then change the colours of every view and crop on its own.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.data import transforms as T
from fvcore.transforms.transform import NoOpTransform, TransformList

from d2_unsupdet.data.images import NoBoxes, read_image
from d2_unsupdet.data.photometric import Photometric
from d2_unsupdet.data.records import identity
from d2_unsupdet.data.region_crops import region_crops
from d2_unsupdet.data.siamese_boxes import SharedBoxes, random_boxes
from d2_unsupdet.data.siamese_views import OverlappingViews

if TYPE_CHECKING:
    from d2_unsupdet.priors.found import BoxSource


class SiamesePairMapper:
    """Two views of one size and the regions that both show.

    >>> sample = SiamesePairMapper(source=StoredBoxes("boxes"))({"file_name": "street.jpg"})
    >>> sample["views"]          # uint8 RGB (2, 3, h, w); another image has another size
    >>> sample["priors"]         # float32 (2, 10, 4), XYXY in each view's pixels
    >>> sample["crops"]          # uint8 (2, 10, 3, 128, 128), what each view shows of them
    >>> sample["overlap"]        # float32 (2, 4): what both show, the first of the priors
    >>> sample["rectangles"]     # float32 (2, 4): each view in pixels of the image's file

    An image without any box in the part that both views show is `NoBoxes`: the next one takes its
    place, and the draw is counted.

    Args:
        source: finds the boxes of an image, best first. None: random boxes in the shared part.
        short_edges: lengths of the shorter side, one of which is drawn.
        max_size: of the longer side.
        flip: chance of mirroring the image, and with it both views.
        views: how the two are cut.
        boxes: how boxes are chosen.
        crop_size: side of the pictures of the boxes.
        photometric: colours and blur of views and pictures; by default MoCo v2's recipe.
    """

    def __init__(
        self,
        *,
        source: "BoxSource | None",
        short_edges: Sequence[int] = (320, 336, 352, 368, 400, 416, 432, 448, 464, 480),
        max_size: int = 600,
        flip: float = 0.5,
        views: OverlappingViews | None = None,
        boxes: SharedBoxes | None = None,
        crop_size: int = 128,
        photometric: Photometric | None = None,
    ) -> None:
        self.source, self.flip, self.crop_size = source, flip, crop_size
        self.resize = T.ResizeShortestEdge(list(short_edges), max_size, sample_style="choice")
        self.views = OverlappingViews() if views is None else views
        self.boxes = SharedBoxes() if boxes is None else boxes
        self.photometric = Photometric() if photometric is None else photometric

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        rng = np.random.default_rng(int(np.random.randint(2**63 - 1, dtype=np.int64)))
        pixels = read_image(record["file_name"])
        # A source may take any count of random numbers; the views shall not depend on it.
        own = np.random.default_rng(int(rng.integers(2**63)))
        found = None if self.source is None else self.source(record, pixels, own).boxes
        flipped = bool(rng.random() < self.flip)
        resize = self.resize.get_transform(pixels)
        image = resize.apply_image(pixels)
        height, width = image.shape[:2]
        mirror = T.HFlipTransform(width) if flipped else NoOpTransform()
        image = mirror.apply_image(image)
        pair = self.views.draw(rng, width, height)
        if found is None:
            inside = random_boxes(rng, pair.shared)
        else:
            inside = mirror.apply_box(resize.apply_box(found.astype(np.float64).reshape(-1, 4)))
        regions = self.boxes(rng, inside, pair.shared)
        if regions is None:
            raise NoBoxes(record["file_name"], "no box in the part that both views show")
        cuts = pair.transforms(width, height)
        priors = np.stack([_placed(cut, regions, pair.size) for cut in cuts])
        whole = np.array([[0.0, 0, *pair.size[::-1]]])
        back = [TransformList([resize, mirror, cut]).inverse() for cut in cuts]
        # Copies, since Pillow hands out arrays that torch may not write to.
        plain = [np.array(cut.apply_image(image)) for cut in cuts]
        views, crops = self._pixels(rng, plain, priors)
        return {
            **identity(record),
            "views": torch.from_numpy(views),
            "priors": torch.from_numpy(priors),
            "crops": torch.from_numpy(crops),
            "overlap": torch.from_numpy(priors[:, 0].copy()),
            "flipped": torch.tensor([flipped, flipped]),
            "rectangles": torch.from_numpy(
                np.concatenate([b.apply_box(whole) for b in back]).astype(np.float32)
            ),
        }

    def _pixels(
        self, rng: np.random.Generator, plain: list[np.ndarray], priors: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Views (2, 3, h, w) and crops (2, M, 3, s, s), each with colours of its own."""
        views, crops = [], []
        for view, boxes in zip(plain, priors, strict=True):
            views.append(self.photometric(view, rng).transpose(2, 0, 1))
            operations = [self.photometric.draw(rng) for _ in boxes]
            size = self.crop_size
            crops.append(region_crops(view, boxes, size=size, operations=operations))
        return np.ascontiguousarray(np.stack(views)), np.stack(crops)


def _placed(cut: TransformList, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes of the image in a view's pixels; the arithmetic may leave it by a rounding error."""
    height, width = size
    return cut.apply_box(boxes).clip(0, [width, height] * 2).astype(np.float32)
