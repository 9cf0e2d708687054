"""Boxes shaken before their features are read (Siamese DETR, CVPR 2023, box_disturbance).

Only queries are read from shaken boxes; what the detector has to find stays where it is.
"""

import torch
from torch import Tensor


def jitter_boxes(
    boxes_xyxy: Tensor, sizes: Tensor, noise: Tensor, *, amount: float = 0.1
) -> Tensor:
    """Boxes whose corners moved by at most `amount` of the box's sides, clamped to the image.

    >>> shaken = jitter_boxes(boxes, sizes, torch.randn_like(boxes))

    Args:
        boxes_xyxy: (..., M, 4) in pixels.
        sizes: (..., 2), height and width of each image.
        noise: (..., M, 4), normally distributed; a sigmoid maps it evenly into the range.
        amount: share of a side that a corner moves at most.
    """
    sides = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    moved = boxes_xyxy + (2 * noise.sigmoid() - 1) * amount * torch.cat((sides, sides), -1)
    size = sizes.flip(-1).to(boxes_xyxy)
    most = torch.cat((size, size), -1)[..., None, :]  # (..., 1, 4): width, height, width, height
    return torch.minimum(moved.clamp(min=0), most)
