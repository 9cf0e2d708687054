"""Colour jitter, grayscale and blur on uint8 RGB arrays, by torchvision's definitions.

MoCo v2 (https://arxiv.org/abs/2003.04297) recipe by default. What to do is drawn first, as a list
of named operations, and applied later: both halves can be tested, logged and replayed alone.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

_LUMA = (0.2989, 0.587, 0.114)  # grey from red, green, blue, as torchvision weighs them
# Affine maps of a colour, (3, 4): the last column is added. OpenCV applies one in 11 us a view.
_SAME = np.eye(3, 4)
_GREY = np.array([[*_LUMA, 0]] * 3)
_CONSTANT = np.array([[0.0, 0, 0, 1]] * 3)


class Operation(NamedTuple):
    """One step: the name of an operation and its only number."""

    name: str
    value: float


class Photometric:
    """Draws and applies the colour half of a view.

    >>> photometric = Photometric()
    >>> operations = photometric.draw(np.random.default_rng(0))
    >>> view = photometric.apply(image, operations)

    Args:
        brightness, contrast, saturation: x draws factors from [1 - x, 1 + x].
        hue: x draws shifts from [-x, x] of the whole colour circle; at most 0.5.
        jitter: chance of these four, which come together and in random order.
        grayscale: chance of dropping the colour.
        blur: chance of Gaussian blur.
        sigma: its least and greatest standard deviation in pixels.
        independent: each of the four has its own chance `jitter`, in the order written here
            (PiCIE, DenseSiam's segmentation), instead of one for all and a random order.
    """

    def __init__(
        self,
        *,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        jitter: float = 0.8,
        grayscale: float = 0.2,
        blur: float = 0.5,
        sigma: tuple[float, float] = (0.1, 2.0),
        independent: bool = False,
    ) -> None:
        self.ranges = {
            "brightness": (max(0.0, 1 - brightness), 1 + brightness),
            "contrast": (max(0.0, 1 - contrast), 1 + contrast),
            "saturation": (max(0.0, 1 - saturation), 1 + saturation),
            "hue": (-hue, hue),
        }
        self.jitter, self.grayscale, self.blur, self.sigma = jitter, grayscale, blur, sigma
        self.independent = independent

    def draw(self, rng: np.random.Generator) -> list[Operation]:
        """The operations for one view, in order. Always takes the same count of numbers."""
        u = rng.random(12).tolist()  # one call: this runs for every view
        operations = [
            Operation(name, low + place * (high - low))
            for (name, (low, high)), place in zip(self.ranges.items(), u[1:5], strict=True)
        ]
        if self.independent:
            chances = zip(u[5:9], operations, strict=True)
            operations = [operation for chance, operation in chances if chance < self.jitter]
        elif u[0] < self.jitter:
            operations = [
                operation for _, operation in sorted(zip(u[5:9], operations, strict=True))
            ]
        else:
            operations = []
        if u[9] < self.grayscale:
            operations.append(Operation("grayscale", 1.0))
        if u[10] < self.blur:
            low, high = self.sigma
            operations.append(Operation("blur", low + u[11] * (high - low)))
        return operations

    @staticmethod
    def apply(image: np.ndarray, operations: Sequence[Operation]) -> np.ndarray:
        """The changed copy of a uint8 RGB image (height, width, 3)."""
        for name, value in operations:
            image = OPERATIONS[name](image, value)
        return image

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.apply(image, self.draw(rng))


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with black: 0 is black, 1 the image."""
    return cv2.transform(image, factor * _SAME)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean grey value: 0 is plain grey, 1 the image."""
    red, green, blue, _ = cv2.mean(image)
    mean = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    return cv2.transform(image, factor * _SAME + (1 - factor) * mean * _CONSTANT)


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the image in grey: 0 is grey, 1 the image."""
    return cv2.transform(image, factor * _SAME + (1 - factor) * _GREY)


def adjust_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turn the colour circle by `shift` of its circumference."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    height, width, _ = hsv.shape
    # Here 256 steps make the circle, so uint8 wraps as hue does. Adding whole rows is three times
    # faster than adding to every third value.
    row = np.zeros((width, 3), np.uint8)
    row[:, 0] = round(shift * 256) % 256
    rows = hsv.reshape(height, 3 * width)
    rows += row.ravel()
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def to_grayscale(image: np.ndarray, _: float = 1.0) -> np.ndarray:
    """Luma in all three channels."""
    return cv2.transform(image, _GREY)


def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian of standard deviation `sigma` pixels, cut at three of them."""
    kernel = cv2.getGaussianKernel(2 * math.ceil(3 * sigma) + 1, sigma, cv2.CV_32F)
    # Half the time of cv2.GaussianBlur, whose 8-bit path is built to be bit-exact everywhere.
    return cv2.sepFilter2D(image, -1, kernel, kernel)


OPERATIONS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
    "grayscale": to_grayscale,
    "blur": gaussian_blur,
}
