"""PiCIE's protocol (arXiv:2103.17070), used by DenseSiam's segmentation: one geometry, two places.

View 1 is the transformed image. View 2 is the whole image; the model transforms its features in the
same way. So every cell of both maps shows the same place.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from d2_unsupdet.data.images import BadImage, ImageFile, read_label_map, shrink_for
from d2_unsupdet.data.photometric import Photometric
from d2_unsupdet.data.records import identity
from d2_unsupdet.data.views import Crop
from d2_unsupdet.errors import UserError
from d2_unsupdet.seeding import generator

# PiCIE's colours, weaker than MoCo's: four operations in fixed order, each with a chance of 0.8.
# The config unfolds the same dict, so that every number of it can be overridden there.
PICIE: dict[str, Any] = {
    "brightness": 0.3,
    "contrast": 0.3,
    "saturation": 0.3,
    "hue": 0.1,
    "jitter": 0.8,
    "grayscale": 0.2,
    "blur": 0.5,
    "sigma": (0.1, 2.0),  # pixels of the square before it is cut: less for smaller ones
    "independent": True,
}


class ReplayedViewMapper:
    """A crop of an image and the whole image, each with colours of its own.

    >>> sample = ReplayedViewMapper(size=320)({"file_name": "street.jpg", "image_id": 7})
    >>> sample["views"]       # uint8 RGB (2, 3, 320, 320)
    >>> sample["overlap"]     # float32 (2, 4) XYXY: the whole view 1; what it shows, in view 2
    >>> sample["flipped"]     # bool (2,): view 1 may be mirrored, view 2 never is

    The keys are those of `PairedViewMapper`.

    Args:
        size: side of both views.
        resize: side of the square in the middle of the image, after resizing, that is everything
            the views show. Colours and blur happen here, so `sigma` counts these pixels.
        scale: least and most share of that side which view 1 covers.
        flip: chance of mirroring view 1.
        photometric: colours and blur; by default PiCIE's, each operation with its own chance. The
            blur has the intended sigma of 0.1 to 2 (the original's had 0 to 1.8).
        redraw: draw anew at every epoch, as PiCIE does. False: one draw for each image and all
            epochs, as DenseSiam's code does.
        seed: of the draws that no epoch changes; used where `redraw` is False.
    """

    def __init__(
        self,
        *,
        size: int = 320,
        resize: int = 640,
        scale: tuple[float, float] = (0.5, 1.0),
        flip: float = 0.5,
        photometric: Photometric | None = None,
        redraw: bool = True,
        seed: int = 0,
    ) -> None:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise UserError(f"scale={tuple(scale)} is no range of shares; it lies in (0, 1].")
        self.size, self.resize, self.flip = size, resize, flip
        self.scale = (float(scale[0]), float(scale[1]))
        self.photometric = Photometric(**PICIE) if photometric is None else photometric
        self.redraw, self.seed = redraw, seed

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        if self.redraw:
            rng = np.random.default_rng(int(np.random.randint(2**63 - 1, dtype=np.int64)))
        else:
            rng = generator(self.seed, "replayed", record["index"])
        operations = [self.photometric.draw(rng) for _ in range(2)]
        crop = self.draw(rng)
        pixels, square = self._square(ImageFile(record["file_name"]))
        whole = Crop(self.resize, self.resize, 0, 0, self.resize, self.resize, self.size)
        views = np.empty((2, 3, self.size, self.size), np.uint8)
        for v, part in enumerate((crop, whole)):
            coloured = self.photometric.apply(pixels, operations[v])
            views[v] = part.apply_image(coloured).transpose(2, 0, 1)
        shown = whole.place(*crop.rectangle)
        unit = np.asarray([square.width, square.height] * 2) / self.resize
        corner = np.asarray([square.left, square.top] * 2)
        rectangles = [corner + unit * part.rectangle for part in (crop, whole)]
        return {
            **identity(record),
            "views": torch.from_numpy(views),
            "overlap": torch.tensor([(0, 0, self.size, self.size), shown]).float(),
            "flipped": torch.tensor([crop.flipped, False]),
            "rectangles": torch.from_numpy(np.stack(rectangles)).float(),
            "valid": True,
        }

    def draw(self, rng: np.random.Generator) -> Crop:
        """The geometric transform: a square part of the square, perhaps mirrored."""
        u = rng.random(4).tolist()
        low, high = self.scale
        side = max(1, round((low + u[0] * (high - low)) * self.resize))
        free = self.resize - side + 1
        left, top = int(u[1] * free), int(u[2] * free)
        return Crop(
            image_width=self.resize,
            image_height=self.resize,
            left=left,
            top=top,
            right=left + side,
            bottom=top + side,
            size=self.size,
            flipped=u[3] < self.flip,
        )

    def _square(self, image: ImageFile) -> tuple[np.ndarray, Crop]:
        """The resized middle of the image, and where it lies in the image."""
        square = middle_square(image.width, image.height, self.resize)
        decoded = image.decode(shrink=shrink_for(square.short_side, self.resize))
        square = square.snapped(decoded.shrink, decoded.origin)
        return square.shrunk(decoded.shrink, decoded.origin).apply_image(decoded.pixels), square


class SegmentationTestMapper:
    """The protocol's evaluation: the middle square of image and label map, at one size.

    >>> sample = SegmentationTestMapper(size=320)(record)
    >>> sample["image"]       # uint8 RGB (3, 320, 320)
    >>> sample["sem_seg"]     # int64 (320, 320), values as they are in the file

    Args:
        size: to which the shorter side is resized (bilinear; labels nearest), and the side of the
            square that is cut from the middle.
    """

    def __init__(self, *, size: int = 320) -> None:
        self.size = size

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        image = ImageFile(record["file_name"])
        square = middle_square(image.width, image.height, self.size)
        pixels = square.apply_image(image.decode().pixels)
        sample = {
            **identity(record),
            "image": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
            "height": self.size,
            "width": self.size,
        }
        if "sem_seg_file_name" in record:
            labels = read_label_map(record["sem_seg_file_name"])
            if labels.shape != (image.height, image.width):
                raise BadImage(
                    record["sem_seg_file_name"],
                    f"the label map has {labels.shape[1]}x{labels.shape[0]} pixels, "
                    f"its image {image.width}x{image.height}",
                )
            sample["sem_seg"] = torch.from_numpy(_nearest(labels, square).astype(np.int64))
        return sample


def middle_square(width: int, height: int, size: int) -> Crop:
    """The largest square in the middle: what a resized shorter side and a centre crop leave."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return Crop(width, height, left, top, left + side, top + side, size)


def _nearest(labels: np.ndarray, square: Crop) -> np.ndarray:
    """The label under each pixel's centre; OpenCV's nearest takes the one under its corner."""
    centres = (np.arange(square.size) + 0.5) * (square.width / square.size)
    places = centres.astype(np.int64)
    return labels[(square.top + places)[:, None], square.left + places]
