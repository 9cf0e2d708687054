"""EdgeBoxes through OpenCV contrib: boxes that wholly contain contours, with a score.

Edges come from the structured-edge model where its file is given (Siamese DETR), else from the
image's gradient, thinned and cut to the strongest, since dense edges cost ten times the time.
"""

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.c_random import require_contrib
from d2_unsupdet.priors.found import Found


class Edges(NamedTuple):
    """Strength in 0 to 1 and direction across the edge in 0 to pi, both (h, w) float32."""

    strength: np.ndarray
    orientation: np.ndarray


class EdgeBoxes:
    """At most `count` boxes, on the image in its own size.

    "Edge Boxes: Locating Object Proposals from Edges", ECCV 2014; settings of Siamese DETR, arXiv
    2303.18144. A smooth image without any box is sharpened and enlarged; if that does not help, it
    gets one box over the middle half of each side, with score 0.

    Example:
        >>> source = EdgeBoxes(model="model.yml.gz")
        >>> source(record, pixels, rng).scores[:3]

    Args:
        model: the structured-edge file of opencv_extra; None: edges from the gradient.
        count: most boxes.
        density: share of the pixels that gradient edges keep.
    """

    def __init__(
        self, *, model: str | os.PathLike | None = None, count: int = 512, density: float = 0.05
    ) -> None:
        require_contrib()
        if model is not None and not Path(model).is_file():
            raise UserError(
                f"There is no structured-edge model {model}: it is model.yml.gz of opencv_extra; "
                "without it leave model out, and edges come from the gradient."
            )
        if count < 1 or not 0 < density <= 1:
            raise UserError(f"EdgeBoxes(count={count}, density={density}): over 0, density to 1.")
        self.model = None if model is None else os.fspath(model)
        self.count = count
        self.density = density

    def __call__(
        self, record: Mapping[str, Any], pixels: np.ndarray, rng: np.random.Generator
    ) -> Found:
        """Boxes by falling score; nothing is random."""
        found = self._search(pixels)
        if not len(found):
            factor = -(-1000 // min(pixels.shape[:2]))  # so that the short side is 1000 or more
            found = self._search(_clearer(pixels, factor)).scaled(1 / factor, 1 / factor)
        return found if len(found) else _middle(pixels)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("model", "count", "density")}

    def _search(self, pixels: np.ndarray) -> Found:
        edges = self._edges(pixels)
        search = cv2.ximgproc.createEdgeBoxes(maxBoxes=self.count)
        found, scores = search.getBoundingBoxes(edges.strength, edges.orientation)
        boxes = np.asarray(found, np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return Found(boxes, np.asarray(scores, np.float32).reshape(-1))

    @cached_property
    def _edges(self) -> Callable[[np.ndarray], Edges]:
        """Reading the model takes seconds and it cannot cross processes: each reads its own."""
        if self.model is None:
            return lambda pixels: gradient_edges(pixels, density=self.density)
        detector = cv2.ximgproc.createStructuredEdgeDetection(self.model)

        def edges(pixels: np.ndarray) -> Edges:
            strength = detector.detectEdges(pixels.astype(np.float32) / 255)
            orientation = detector.computeOrientation(strength)
            return Edges(detector.edgesNms(strength, orientation), orientation)

        return edges


def gradient_edges(pixels: np.ndarray, *, density: float = 0.05) -> Edges:
    """The strongest ridges of the colour gradient.

    Args:
        pixels: (h, w, 3) uint8 RGB.
        density: share of the pixels that is kept.
    """
    smooth = cv2.GaussianBlur(pixels.astype(np.float32) / 255, (0, 0), 1.0)
    gradient = np.stack([cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)])
    squared = (gradient**2).sum(axis=0)  # (h, w, 3)
    channel = squared.argmax(axis=2)[None, :, :, None]  # each pixel: where the change is strongest
    along_x, along_y = np.take_along_axis(gradient, channel, axis=3)[..., 0]
    strength = np.hypot(along_x, along_y)
    ridge = _ridge(strength, along_x, along_y)
    keep = max(1, int(density * strength.size))
    limit = np.partition(ridge.ravel(), -keep)[-keep]
    ridge[ridge < max(limit, 1e-3)] = 0  # a flat image has no edges, whatever is strongest in it
    top = np.float32(ridge.max())
    orientation = np.mod(np.arctan2(along_y, along_x), np.pi).astype(np.float32)
    return Edges(ridge / top if top else ridge, orientation)


def _ridge(strength: np.ndarray, along_x: np.ndarray, along_y: np.ndarray) -> np.ndarray:
    """`strength` where it is a maximum along the gradient, else 0."""
    height, width = strength.shape
    norm = np.maximum(strength, 1e-12)
    step_x, step_y = along_x / norm, along_y / norm
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    best = strength > 0
    for sign in (1, -1):
        beside = cv2.remap(
            strength,
            x + sign * step_x,
            y + sign * step_y,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        best &= strength >= beside
    return np.where(best, strength, 0).astype(np.float32)


def _clearer(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Sharpened, contrast times 1.5 around the mean grey, enlarged."""
    cross = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], np.float32)
    sharp = cv2.filter2D(pixels, -1, cross).astype(np.float32)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).mean()
    strong = np.clip(grey + 1.5 * (sharp - grey), 0, 255).astype(np.uint8)
    return cv2.resize(strong, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)


def _middle(pixels: np.ndarray) -> Found:
    height, width = pixels.shape[:2]
    box = np.array([[0.25, 0.25, 0.75, 0.75]], np.float32)
    return Found(box, np.zeros(1, np.float32)).scaled(width, height)
