"""The part of an image that two views share, in each view's own pixels, and features read there.

RoIAlign must be `aligned`: only then does mirroring the view, the box and the output commute.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from d2_unsupdet.errors import UserError

_GEOMETRY = ("overlap", "flipped", "valid", "rectangles")


@dataclass(frozen=True)
class ViewGeometry:
    """Where one view of each image lies.

    Args:
        boxes: (batch, 4) XYXY, the shared part in this view's pixels; the whole view without one.
        flipped: (batch,) bool, whether the view is mirrored left to right.
        valid: (batch,) bool, whether the two views share enough; the same for both views.
        rectangles: (batch, 4) XYXY, the view in the pixels of its image.
        side: of the view in pixels.
    """

    boxes: Tensor
    flipped: Tensor
    valid: Tensor
    rectangles: Tensor
    side: int


def view_geometry(batch: Sequence[dict], device: torch.device) -> list[ViewGeometry]:
    """The geometry of every view of a paired batch.

    A pair without overlap gets the whole view as its box, so that what is read there is finite;
    `valid` tells the losses to leave it out.
    """
    for sample in batch:
        missing = [name for name in _GEOMETRY if name not in sample]
        if missing:
            raise UserError(
                f"The sample of image '{sample.get('image_id')}' has no '{missing[0]}'; dense "
                "pretraining needs the paired-view mapper in dataloader.train."
            )
    side = batch[0]["views"].shape[-1]
    valid = torch.tensor([bool(s["valid"]) for s in batch])
    boxes = torch.stack([s["overlap"] for s in batch], dim=1)  # (views, batch, 4)
    boxes = torch.where(valid[:, None], boxes, boxes.new_tensor([0, 0, side, side]))
    flipped = torch.stack([s["flipped"] for s in batch], dim=1)
    rectangles = torch.stack([s["rectangles"] for s in batch], dim=1)
    boxes, flipped, valid, rectangles = (
        x.to(device, non_blocking=True) for x in (boxes, flipped, valid, rectangles)
    )
    return [
        ViewGeometry(boxes[v], flipped[v], valid, rectangles[v], side) for v in range(len(boxes))
    ]


def aligned_patches(
    feature: Tensor,
    boxes: Tensor,
    flipped: Tensor,
    *,
    size: int,
    side: int,
    sampling_ratio: int = 0,
) -> Tensor:
    """RoIAlign of one box an image, mirrored back: position (i, j) is one place in both views.

    Args:
        feature: (batch, channels, h, w).
        boxes: (batch, 4) XYXY in the view's pixels.
        flipped: (batch,) bool.
        size: cells a side of the result (batch, channels, size, size).
        side: of the view in pixels.
        sampling_ratio: samples a cell and axis; 0 as many as the cell has feature cells.
    """
    # In bf16 a box edge would be off by half a pixel, and image 257 would be image 256.
    with torch.autocast(feature.device.type, enabled=False):
        feature = feature.to(torch.promote_types(feature.dtype, torch.float32))
        rows = torch.arange(len(boxes), device=boxes.device)
        patches = roi_align(
            feature,
            torch.cat([rows[:, None], boxes], dim=1).to(feature.dtype),
            output_size=size,
            spatial_scale=feature.shape[-1] / side,
            sampling_ratio=sampling_ratio,
            aligned=True,
        )
    return torch.where(flipped[:, None, None, None], patches.flip(-1), patches)


def grid_points(size: int, *, device: torch.device) -> Tensor:
    """Centres of size x size bins of the unit square: (size * size, 2), x first, row by row."""
    centre = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def to_view(points: Tensor, view: ViewGeometry) -> Tensor:
    """Points (batch, n, 2) of the unit square over the shared part, in the view's pixels."""
    x = torch.where(view.flipped[:, None], 1 - points[..., 0], points[..., 0])
    corner, extent = view.boxes[:, None, :2], view.boxes[:, None, 2:] - view.boxes[:, None, :2]
    return corner + torch.stack([x, points[..., 1]], dim=-1) * extent


def sample_points(feature: Tensor, points: Tensor, *, side: int) -> Tensor:
    """Bilinear values (batch, n, channels) of a map (batch, channels, h, w) at view pixels."""
    grid = (2 * points / side - 1)[:, :, None].to(feature.dtype)  # (batch, n, 1, 2)
    values = F.grid_sample(feature, grid, align_corners=False, padding_mode="border")
    return values[..., 0].transpose(1, 2)
