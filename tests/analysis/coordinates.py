"""Images whose colour tells the place, and a network that reads it: every answer is known."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from d2_unsupdet.analysis.samples import Sample, Views, draw_views
from d2_unsupdet.data.photometric import Photometric

PLAIN = Photometric(jitter=0, grayscale=0, blur=0)


def coordinate_image(width: int = 400, height: int = 300) -> np.ndarray:
    """Red grows from left to right, green from top to bottom."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width)[None, :].round()
    image[..., 1] = np.linspace(0, 255, height)[:, None].round()
    return image


def places(images: Tensor, stride: int = 16, span: float = math.pi) -> dict[str, Tensor]:
    """Features that are most alike at the same place: angles of both coordinates."""
    angles = F.avg_pool2d(images[:, :2].double(), stride) / 255 * span
    feature = torch.cat([angles.cos(), angles.sin()], dim=1)
    return {"res4": feature, "res5": feature}


def coordinate_views(count: int = 3, *, size: int = 256, geometry: str = "crop", **settings):
    sample = Sample(coordinate_image(), "coordinates", (120.0, 90.0, 300.0, 220.0))
    found: list[Views] = []
    for i in range(count):
        views = draw_views(sample, i, size=size, geometry=geometry, photometric=PLAIN, **settings)
        assert views is not None
        found.append(views)
    return found
