"""Detectors as functions of tensors alone, which torch.export can follow.

One picture at a time on a canvas of fixed size: it stands in the upper left corner and `size` says
how much of the canvas it is. The rest is padding, as in a batch of training.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from d2_unsupdet.detectors import DETR
from d2_unsupdet.detectors.structures import Features
from d2_unsupdet.errors import UserError

Answer = tuple[Tensor, Tensor, Tensor]


class OnCanvas(nn.Module, ABC):
    """What is common: a uint8 picture (3, H, W) on the canvas becomes boxes, scores and labels.

    Args:
        model: the detector.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, size: Tensor) -> Answer:
        """`size` (height, width) int64; boxes (n, 4) xyxy in pixels of the canvas, best first."""
        height, width = image.shape[-2:]
        rows = torch.arange(height, device=image.device) >= size[0]
        columns = torch.arange(width, device=image.device) >= size[1]
        mask = rows[:, None] | columns
        pixels = (image.float() - self.model.pixel_mean) / self.model.pixel_std
        boxes, scores, labels = self.detect(pixels.masked_fill(mask, 0)[None], mask[None], size)
        limit = torch.stack([size[1], size[0], size[1], size[0]]).to(boxes.dtype)
        return torch.minimum(boxes.clamp(min=0), limit), scores, labels

    @abstractmethod
    def detect(self, pixels: Tensor, mask: Tensor, size: Tensor) -> Answer:
        """Of normalised pixels (1, 3, H, W), True on padding (1, H, W)."""


class DetrOnCanvas(OnCanvas):
    """The six detectors of the DETR family."""

    def detect(self, pixels: Tensor, mask: Tensor, size: Tensor) -> Answer:
        model = self.model
        maps = model.backbone(pixels)
        features = Features([maps[name] for name in model.in_features], mask, size[None])
        encoded = model.encode(features)
        decoded = model.decode(encoded, model.queries(encoded))
        # Boxes are shares of the picture; multiplied by its size after the choice.
        (found,) = model.postprocess(decoded.logits[-1], decoded.boxes[-1], [(1, 1)])
        scale = torch.stack([size[1], size[0], size[1], size[0]]).to(found.boxes.dtype)
        return found.boxes * scale, found.scores, found.labels


KINDS: dict[type, Callable[[Any], OnCanvas]] = {DETR: DetrOnCanvas}  # onnx_rcnn.py adds its own


def on_canvas(model: nn.Module) -> OnCanvas:
    """The model as a function of tensors, or a UserError for what has none."""
    for kind, wrapper in KINDS.items():
        if isinstance(model, kind):
            return wrapper(model).eval()
    known = ", ".join(kind.__name__ for kind in KINDS)
    raise UserError(
        f"{type(model).__name__} cannot be exported to ONNX; what can: {known} and what derives "
        "from them."
    )
