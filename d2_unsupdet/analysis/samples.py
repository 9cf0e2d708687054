"""What the figures look at: images with a labelled box, and pairs of augmented views of them.

Everything is drawn from the seed and the image's place in the draw, so that each checkpoint of a
figure sees the same pixels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2_unsupdet.data import catalog
from d2_unsupdet.data.annotations import clean_annotations
from d2_unsupdet.data.images import BadImage, read_image
from d2_unsupdet.data.photometric import Photometric
from d2_unsupdet.data.views import Crop, RandomCrop
from d2_unsupdet.errors import UserError

Features = Callable[[Tensor], Mapping[str, Tensor]]
Box = tuple[float, float, float, float]
GEOMETRIES = ("crop", "flip", "none")
_TRIES = 200  # a crop of a fifth of the image seldom holds a large box


@dataclass(frozen=True)
class Sample:
    """An image, one of its boxes (XYXY in its pixels) where it has any, and its name."""

    pixels: np.ndarray
    name: str
    box: Box | None = None


@dataclass(frozen=True)
class Views:
    """Two views of a sample.

    Args:
        images: (2, 3, s, s) uint8.
        crops: their geometry.
        name: of the sample.
        box: the sample's box, in its own pixels.
    """

    images: Tensor
    crops: tuple[Crop, Crop]
    name: str
    box: Box | None = None

    @property
    def boxes(self) -> Tensor:
        """(2, 4) XYXY, the box in each view's pixels."""
        assert self.box is not None
        return torch.tensor([crop.place(*self.box) for crop in self.crops])

    @property
    def flipped(self) -> Tensor:
        return torch.tensor([crop.flipped for crop in self.crops])


def read_samples(
    data: str, count: int, *, seed: int = 0, boxes: bool = False, least: float = 0.05
) -> list[Sample]:
    """`count` random images of a data set (all it has, if fewer), in random order.

    Args:
        data: name of the data set.
        count: how many images.
        seed: decides which ones, and which box of each.
        boxes: take only images with a usable box.
        least: shortest side of such a box, as a share of the image's.
    """
    records = catalog.get_dataset(data)
    rng = np.random.default_rng([seed, 0])
    samples: list[Sample] = []
    for index in rng.permutation(len(records)):
        if len(samples) == count:
            break
        sample = _read(records[index], np.random.default_rng([seed, 1, index]), boxes, least)
        if sample is not None:
            samples.append(sample)
    if not samples:
        wanted = f"an image with a box whose sides are over {least:.0%} of the image's"
        wanted = wanted if boxes else "a readable image"
        raise UserError(
            f"The data set '{data}' ({len(records)} images) holds no {wanted.removeprefix('an ')}; "
            "name another with --data."
        )
    return samples


def stack(samples: Sequence[Sample], size: int) -> tuple[Tensor, Tensor]:
    """Images stretched to squares, (batch, 3, size, size) uint8, and their boxes (batch, 4)."""
    images, boxes = [], []
    for sample in samples:
        height, width = sample.pixels.shape[:2]
        whole = Crop(width, height, 0, 0, width, height, size)
        images.append(_tensor(whole.apply_image(sample.pixels)))
        boxes.append(whole.place(*sample.box) if sample.box else (0.0, 0.0, size, size))
    return torch.stack(images), torch.tensor(boxes)


def draw_views(
    sample: Sample,
    number: int,
    *,
    size: int,
    seed: int = 0,
    whole_box: bool = False,
    geometry: str = "crop",
    photometric: Photometric | None = None,
) -> Views | None:
    """Two augmented views by MoCo v2's recipe, or None where no crops show what they should.

    Args:
        sample: of which image.
        number: its place in the draw.
        size: side of a view.
        seed: with `number`, decides everything.
        whole_box: neither view may cut the box.
        geometry: "crop", "flip" (the whole image, mirrored or not) or "none".
        photometric: colours; None takes MoCo v2's.
    """
    rng = np.random.default_rng([seed, 2, number])
    height, width = sample.pixels.shape[:2]
    scale = (0.2, 1.0) if geometry == "crop" else (1.0, 1.0)
    law = RandomCrop(size=size, scale=scale, flip=0.0 if geometry == "none" else 0.5)
    crops = []
    for _ in range(_TRIES):
        crop = law.draw(rng, width, height)
        if geometry != "crop":
            crop = Crop(width, height, 0, 0, width, height, size, crop.flipped)
        if not whole_box or _contains(crop, sample.box):
            crops.append(crop)
        if len(crops) == 2:
            break
    else:
        return None
    colours = photometric or Photometric()
    pixels = [colours(crop.apply_image(sample.pixels), rng) for crop in crops]
    images = torch.stack([_tensor(view) for view in pixels])
    return Views(images, (crops[0], crops[1]), sample.name, sample.box)


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Consecutive parts of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def level_of(features: Mapping[str, Tensor], level: str) -> Tensor:
    """One feature map, or a sentence that names those there are."""
    if level not in features:
        raise UserError(f"There is no feature map '{level}'; there are {', '.join(features)}.")
    return features[level]


def _read(record: dict, rng: np.random.Generator, boxes: bool, least: float) -> Sample | None:
    if boxes and not record.get("annotations"):
        return None
    try:
        pixels = read_image(record["file_name"])
    except BadImage as error:
        print(f"left out: {error}")
        return None
    height, width = pixels.shape[:2]
    usable = [
        annotation["bbox"]
        for annotation in clean_annotations(record.get("annotations", ()), width, height)
        if _least_share(annotation["bbox"], width, height) >= least
    ]
    if boxes and not usable:
        return None
    box = tuple(usable[rng.integers(len(usable))]) if usable else None
    return Sample(pixels, str(record["file_name"]), box)


def _least_share(box: Sequence[float], width: int, height: int) -> float:
    return min((box[2] - box[0]) / width, (box[3] - box[1]) / height)


def _contains(crop: Crop, box: Box | None) -> bool:
    assert box is not None
    left, top, right, bottom = crop.rectangle
    return left <= box[0] and top <= box[1] and box[2] <= right and box[3] <= bottom


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
