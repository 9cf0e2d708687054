"""Images that look alike to a backbone: cosines of its last stage's mean over all places.

`neighbours.py` compares whole maps, place by place, for a figure; this keeps one short row an image
and answers for images that come later. The gallery's mean is taken off first: features behind a
ReLU point all one way, and what every image shares tells none from another.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from d2_unsupdet.analysis.samples import Sample, stack
from d2_unsupdet.checkpoint.backbone import STAGES, FrozenResNet
from d2_unsupdet.data.images import BadImage, read_image
from d2_unsupdet.errors import UserError


@dataclass(frozen=True)
class Alike:
    """An image of the gallery and its cosine to the one that was asked about."""

    index: int
    similarity: float


class Gallery:
    """Features and thumbnails of a set of images.

    >>> gallery = Gallery(load_resnet("output/run"))
    >>> gallery.add(["a.jpg", "b.jpg"])
    >>> gallery.nearest(read_image("c.jpg"), count=5)

    Args:
        net: whose features.
        side: to which images are stretched.
        thumbnail: longest side of the pictures that are kept.
    """

    def __init__(self, net: FrozenResNet, *, side: int = 224, thumbnail: int = 192) -> None:
        self.net, self.side, self.thumbnail = net, side, thumbnail
        self.stage = next(s for s in reversed(STAGES) if s in net.channels)
        self.paths: list[Path] = []
        self.thumbnails: list[bytes] = []
        self._rows = torch.zeros(0, net.channels[self.stage])

    def __len__(self) -> int:
        return len(self.paths)

    def add(
        self, paths: Sequence[str | Path], *, batch: int = 32, progress: bool = False
    ) -> list[str]:
        """Take these files in; what cannot be read is left out and returned in words."""
        bad: list[str] = []
        bar = tqdm(paths, desc="features", unit="image", disable=not progress)
        rows = [self._rows]
        for part in _batches(_read(bar, self.side, bad), batch):
            rows.append(self.features([pixels for _, pixels in part]))
            self.paths += [path for path, _ in part]
            self.thumbnails += [small_jpeg(pixels, self.thumbnail) for _, pixels in part]
        self._rows = torch.cat(rows)
        if not self.paths:
            raise UserError(f"None of the {len(paths)} images can be read, the first: {bad[0]}.")
        return bad

    def features(self, images: Sequence[np.ndarray]) -> Tensor:
        """(images, channels) of RGB pixels of any size."""
        pixels, _ = stack([Sample(image, "") for image in images], self.side)
        return self.net(pixels)[self.stage].mean((2, 3)).float().cpu()

    def nearest(
        self, image: np.ndarray, *, count: int = 8, without: int | None = None
    ) -> list[Alike]:
        """The most similar images, best first; `without` leaves one of them out."""
        mean = self._rows.mean(0)
        asked = F.normalize(self.features([image]) - mean, dim=1)
        cosines = F.normalize(self._rows - mean, dim=1) @ asked[0]
        if without is not None:
            cosines[without] = -torch.inf
        values, indices = cosines.topk(min(count, len(self) - (without is not None)))
        found = zip(indices.tolist(), values.tolist(), strict=True)
        return [Alike(index, value) for index, value in found]


def small_jpeg(pixels: np.ndarray, longest: int, *, quality: int = 85) -> bytes:
    """RGB pixels, shrunk if they are larger, without anything else that their file told."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((longest, longest), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def _read(
    paths: Iterable[str | Path], side: int, bad: list[str]
) -> Iterator[tuple[Path, np.ndarray]]:
    for path in paths:
        try:
            yield Path(path), read_image(path, target_short_side=side)
        except BadImage as error:
            bad.append(str(error))


def _batches(
    items: Iterator[tuple[Path, np.ndarray]], size: int
) -> Iterator[list[tuple[Path, np.ndarray]]]:
    part: list[tuple[Path, np.ndarray]] = []
    for item in items:
        part.append(item)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
