"""Eigen attention of detectors: what a normalised cut of their features calls foreground.

JoinDet's region priors (its figure 6), and a way to look into any pretrained encoder: nothing is
finetuned.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from d2_unsupdet.analysis.attention import HeatMap
from d2_unsupdet.analysis.attention_pictures import draw_heat
from d2_unsupdet.analysis.pictures import draw_instances, fitted, titled, to_rgb
from d2_unsupdet.detectors import DETR
from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.eigen_attention import EigenAttention
from d2_unsupdet.priors.region_boxes import CellMask, region_boxes

PLACES = ("encoder", "backbone")


@dataclass(frozen=True)
class Eigen:
    """The cut of one image.

    Args:
        vector: (h, w) of cells, positive in the foreground; None where no cut is clear.
        boxes_xyxy: (n, 4) of the foreground's regions, in pixels of the image given.
        stride: pixels of a cell.
    """

    vector: np.ndarray | None
    boxes_xyxy: np.ndarray
    stride: float


@torch.no_grad()
def eigen_attention(
    detector: torch.nn.Module,
    sample: dict,
    *,
    place: str = "encoder",
    level: int = 0,
    attention: EigenAttention | None = None,
) -> Eigen:
    """Cut the tokens of one image.

    Args:
        detector: of the DETR family.
        sample: Detectron2's.
        place: whose features: the encoder's, or the backbone's that it reads.
        level: 0 is the finest.
        attention: the rule of the cut; by default JoinDet's.
    """
    if not isinstance(detector, DETR):
        raise UserError(
            f"{type(detector).__name__} has no encoder to cut: give a detector of the DETR family."
        )
    images = detector.preprocess([sample])
    features = detector.features(images)
    maps = features.maps
    if place == "encoder":
        encoded = detector.encode(features)
        maps = [encoded.level(i) for i in range(len(encoded.shapes))]
    if not 0 <= level < len(maps):
        raise UserError(f"There is no level {level}: the {place} has 0 to {len(maps) - 1}.")
    height, width = images.image_sizes[0]
    rows, columns = maps[level].shape[-2:]
    padded = images.tensor.shape[-2:]
    stride = 2.0 ** round(math.log2(max(padded[0] / rows, padded[1] / columns)))
    tokens = maps[level][0, :, : math.ceil(height / stride), : math.ceil(width / stride)]
    found = (attention or EigenAttention()).vector(tokens)
    if found is None:
        return Eigen(None, np.zeros((0, 4), np.float32), stride)
    vector, foreground = found
    mask = CellMask(foreground, cell=(stride, stride), size=(height, width))
    return Eigen(vector, region_boxes(mask), stride)


def draw_eigen(
    image: "np.ndarray | torch.Tensor", size: tuple[int, int], eigen: Eigen, label: str
) -> np.ndarray:
    """The vector as heat, from the least foreground to the most, and the boxes of its regions.

    Args:
        image: the original.
        size: (height, width) of what the detector saw, whose pixels `eigen` counts.
        eigen: of that.
        label: in the title.
    """
    rgb, _ = fitted(to_rgb(image), 320, 480)
    if eigen.vector is None:
        return titled(rgb, f"{label}: no clear cut")
    cells = _over_image(eigen.vector, eigen.stride, size)
    drawn = draw_heat(rgb, HeatMap(torch.from_numpy(cells)))
    regions = Instances(
        size,
        pred_boxes=Boxes(torch.from_numpy(eigen.boxes_xyxy)),
        pred_classes=torch.zeros(len(eigen.boxes_xyxy), dtype=torch.int64),
    )
    count = len(regions)
    title = f"{label}: {count} region{'s' * (count != 1)}"
    return titled(draw_instances(drawn, regions, [""]), title)


def _over_image(vector: np.ndarray, stride: float, size: tuple[int, int]) -> np.ndarray:
    """Cells in [0, 1] as a picture of the detector's image: the last ones reach over its border."""
    low, high = float(vector.min()), float(vector.max())
    cells = (vector - low) / max(high - low, 1e-12)
    whole = (round(vector.shape[1] * stride), round(vector.shape[0] * stride))
    picture = Image.fromarray(cells.astype(np.float32)).resize(whole, Image.Resampling.BILINEAR)
    return np.clip(np.asarray(picture)[: size[0], : size[1]], 0, None)
