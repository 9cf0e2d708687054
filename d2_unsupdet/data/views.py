"""Two crops of one image and their overlap, as pure geometry in continuous edge coordinates.

An edge at x = 3 lies between pixels 2 and 3. Crops have whole edges in the full image, so that
slicing and resizing is exact; the overlap is in each view's own pixels, mirrored where the view is.
"""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from fvcore.transforms.transform import Transform
from torch.nn.functional import interpolate

Box = tuple[float, float, float, float]
_NOTHING: tuple[Box, Box] = ((0.0, 0.0, 0.0, 0.0),) * 2


@dataclass(frozen=True)
class Crop(Transform):
    """A view of an image: a rectangle, resized to a square, perhaps mirrored.

    >>> crop = Crop(image_width=500, image_height=375, left=40, top=20, right=360, bottom=340,
    ...             size=224, flipped=True)
    >>> view = crop.apply_image(image)                      # (224, 224, 3)
    >>> boxes = crop.inverse().apply_box(crop.apply_box(boxes_xyxy))

    Args:
        image_width, image_height: of the image that is cropped.
        left, top, right, bottom: edges of the rectangle in that image.
        size: side of the view.
        flipped: whether the view is mirrored left to right.
    """

    image_width: int
    image_height: int
    left: int
    top: int
    right: int
    bottom: int
    size: int
    flipped: bool = False

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def short_side(self) -> int:
        return min(self.width, self.height)

    @property
    def rectangle(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.right, self.bottom

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """The view's pixels, interpolated; antialiased where they shrink more than twofold."""
        patch = img[self.top : self.bottom, self.left : self.right]
        resize = _shrink if max(self.width, self.height) > 2 * self.size else cv2.resize
        view = resize(patch, (self.size, self.size))
        return cv2.flip(view, 1) if self.flipped else view

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """The view's labels, each from the nearest pixel."""
        patch = segmentation[self.top : self.bottom, self.left : self.right]
        view = cv2.resize(patch, (self.size, self.size), interpolation=cv2.INTER_NEAREST)
        return cv2.flip(view, 1) if self.flipped else view

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Points (N, 2) of the image in the view's pixels."""
        coords = np.asarray(coords, dtype=np.float64)
        origin, extent = (self.left, self.top), (self.width, self.height)
        points = (coords - origin) * (self.size / np.asarray(extent))
        return self._mirror(points)

    def place(self, left: float, top: float, right: float, bottom: float) -> Box:
        """One XYXY box in the view's pixels; `apply_box` for many."""
        sx, sy = self.size / self.width, self.size / self.height
        x0, x1 = (left - self.left) * sx, (right - self.left) * sx
        if self.flipped:
            x0, x1 = self.size - x1, self.size - x0
        return x0, (top - self.top) * sy, x1, (bottom - self.top) * sy

    def inverse(self) -> Transform:
        return _Uncrop(self)

    def shrunk(self, shrink: int, origin: tuple[int, int] = (0, 0)) -> "Crop":
        """The same crop, addressing the pixels of a `Decoded` image; see `snapped`."""
        if shrink == 1:
            return self
        assert self == self.snapped(shrink, origin)
        (x, y), s = origin, shrink
        return replace(
            self,
            image_width=-(-(self.image_width - x) // s),
            image_height=-(-(self.image_height - y) // s),
            left=(self.left - x) // s,
            top=(self.top - y) // s,
            right=(self.right - x) // s,
            bottom=(self.bottom - y) // s,
        )

    def snapped(self, shrink: int, origin: tuple[int, int] = (0, 0)) -> "Crop":
        """This crop with its edges moved inwards onto the pixel edges of a reduced image."""
        (x, y), s = origin, shrink
        return replace(
            self,
            left=x - (x - self.left) // s * s,
            top=y - (y - self.top) // s * s,
            right=x + (self.right - x) // s * s,
            bottom=y + (self.bottom - y) // s * s,
        )

    def _mirror(self, points: np.ndarray) -> np.ndarray:
        if self.flipped:
            points[:, 0] = self.size - points[:, 0]
        return points


def _shrink(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear with antialiasing as in PIL; several times faster than OpenCV's INTER_AREA."""
    channels = torch.from_numpy(image).movedim(-1, 0)[None]  # (1, C, H, W), a view
    small = interpolate(channels, size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(small[0].movedim(0, -1).numpy())


class _Uncrop(Transform):
    """From a view back into its image; pixels outside the crop are zero."""

    def __init__(self, crop: Crop) -> None:
        super().__init__()
        self.crop = crop

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        crop = self.crop
        points = crop._mirror(np.array(coords, dtype=np.float64))
        extent = np.asarray((crop.width, crop.height))
        return points * (extent / crop.size) + (crop.left, crop.top)

    def apply_image(self, img: np.ndarray, interp: int = cv2.INTER_LINEAR) -> np.ndarray:
        crop = self.crop
        view = cv2.flip(img, 1) if crop.flipped else img
        patch = cv2.resize(view, (crop.width, crop.height), interpolation=interp)
        image = np.zeros((crop.image_height, crop.image_width, *img.shape[2:]), img.dtype)
        image[crop.top : crop.bottom, crop.left : crop.right] = patch
        return image

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, cv2.INTER_NEAREST)

    def inverse(self) -> Transform:
        return self.crop


def overlap(first: Crop, second: Crop) -> np.ndarray:
    """The part both crops show, (2, 4) XYXY in each view's own pixels; zeros when there is none."""
    return np.array(_shared(first, second) or _NOTHING, dtype=np.float32)


def _shared(first: Crop, second: Crop) -> tuple[Box, Box] | None:
    left, top = max(first.left, second.left), max(first.top, second.top)
    right, bottom = min(first.right, second.right), min(first.bottom, second.bottom)
    if right <= left or bottom <= top:
        return None
    return first.place(left, top, right, bottom), second.place(left, top, right, bottom)


@dataclass(frozen=True)
class CropPair:
    """Two views of one image and what they share.

    Args:
        first, second: the crops.
        overlap: (2, 4) XYXY in each view's pixels; zeros when `valid` is false.
        valid: whether the overlap's sides reach the least side in both views.
    """

    first: Crop
    second: Crop
    overlap: np.ndarray
    valid: bool

    @classmethod
    def of(cls, first: Crop, second: Crop, *, min_side: float) -> "CropPair":
        boxes = _shared(first, second)
        sides = [side for x0, y0, x1, y1 in boxes or () for side in (x1 - x0, y1 - y0)]
        valid = bool(sides) and min(sides) >= min_side
        chosen = boxes if boxes and valid else _NOTHING
        return cls(first, second, np.array(chosen, dtype=np.float32), valid)


def _between(low: float, high: float, place: float) -> float:
    return low + place * (high - low)


@dataclass(frozen=True)
class RandomCrop:
    """The law of torchvision's RandomResizedCrop, with a mirror.

    >>> crop = RandomCrop(size=224).draw(np.random.default_rng(0), 500, 375)

    Args:
        size: side of the view.
        scale: least and most share of the image's area.
        ratio: least and most width / height of the crop, drawn evenly in the logarithm.
        flip: chance of mirroring.
    """

    size: int = 224
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def draw(self, rng: np.random.Generator, width: int, height: int) -> Crop:
        for _ in range(10):
            u = rng.random(5).tolist()  # one call: this runs for every view
            area = width * height * _between(*self.scale, u[0])
            low, high = self.ratio
            ratio = math.exp(_between(math.log(low), math.log(high), u[1]))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(u[2] * (width - w + 1)), int(u[3] * (height - h + 1))
                break
        else:  # the image is too long for this scale: the largest centred crop
            w = min(width, max(1, round(height * self.ratio[1])))
            h = min(height, max(1, round(width / self.ratio[0])))
            left, top = (width - w) // 2, (height - h) // 2
        return Crop(width, height, left, top, left + w, top + h, self.size, u[4] < self.flip)

    def draw_pair(
        self,
        rng: np.random.Generator,
        width: int,
        height: int,
        *,
        min_side: float = 16,
        tries: int = 10,
    ) -> CropPair:
        """Two crops; the second is drawn up to `tries` times until their overlap is large enough.

        Args:
            rng: where both are drawn from.
            width, height: of the image.
            min_side: least side of the overlap, in pixels of either view.
            tries: how often the second crop is drawn before the pair is given up as not valid.
        """
        first = self.draw(rng, width, height)
        for _ in range(max(tries, 1)):
            pair = CropPair.of(first, self.draw(rng, width, height), min_side=min_side)
            if pair.valid:
                break
        return pair
