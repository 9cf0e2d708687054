"""Labelled images as a probe sees them: images of one class or of several, or cut-out objects.

A target is 1 (shows the class), 0 (does not) or -1 (only objects marked difficult: neither).
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from d2_unsupdet.data import catalog, subsets
from d2_unsupdet.data.annotations import clean_annotations
from d2_unsupdet.data.images import BadImage, read_image
from d2_unsupdet.data.views import Crop, RandomCrop
from d2_unsupdet.errors import UserError
from d2_unsupdet.seeding import generator

KINDS = ("auto", "image", "multi", "objects")
CENTRE = 224 / 256  # short side 256, of which the middle 224 are looked at
CONTEXT = 1.2  # side of the square around an object, in its longer side
RANDOM_SCALE = (0.08, 1.0)  # of the augmented crops, as supervised training draws them
Region = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class ProbeSet:
    """What is classified, and the truth.

    Args:
        name: of the data set.
        kind: "image" (one class an image), "multi" (any number) or "objects" (cut-outs).
        files: image of each item.
        regions: XYXY of each item in its image; None is all of it.
        targets: (items, classes) of 1, 0, -1.
        classes: names in the order of the columns.
    """

    name: str
    kind: str
    files: list[str]
    regions: list[Region | None]
    targets: Tensor
    classes: list[str]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def single(self) -> bool:
        """Whether each item has exactly one class."""
        return self.kind != "multi"

    @property
    def labels(self) -> Tensor:
        """(items,) the class of each, where it has one."""
        assert self.single
        return self.targets.argmax(1)

    def only(self, kept: Sequence[int]) -> "ProbeSet":
        return replace(
            self,
            files=[self.files[i] for i in kept],
            regions=[self.regions[i] for i in kept],
            targets=self.targets[list(kept)],
        )


def read_probe_set(
    name: str, *, labels: str = "auto", images: int = 0, classes: Sequence[str] | None = None
) -> ProbeSet:
    """A labelled data set for a probe.

    Args:
        name: of the data set.
        labels: "image", "multi" (the classes of all boxes), "objects" (every box cut out), or
            "auto": "image" where images have a class, else "multi".
        images: so many of them, the same at each call; 0 takes all.
        classes: what the training set has; other classes are an error.
    """
    if labels not in KINDS:
        raise UserError(f"labels='{labels}' is not one of {', '.join(KINDS)}.")
    records = _records(name, images, sizes=True)
    kind = labels
    if labels == "auto":
        kind = "image" if records and "label" in records[0] else "multi"
    needed = "label" if kind == "image" else "annotations"
    if not records or not any(needed in record for record in records):
        what = "a class for each image" if kind == "image" else "boxes"
        raise UserError(f"A probe with labels='{kind}' needs {what}, which '{name}' does not have.")
    names = catalog.class_names(name, "image" if kind == "image" else "thing")
    if classes is not None and list(classes) != names:
        raise UserError(
            f"'{name}' has {len(names)} classes that are not the {len(classes)} of the training "
            "set; a probe needs the same ones in the same order."
        )
    build = {"image": _of_images, "multi": _of_boxes, "objects": _of_objects}[kind]
    files, regions, rows = build(records, len(names))
    if not files:
        raise UserError(f"'{name}' holds nothing to classify with labels='{kind}'.")
    targets = torch.tensor(np.array(rows), dtype=torch.int8)
    return ProbeSet(
        name=name, kind=kind, files=files, regions=regions, targets=targets, classes=names
    )


def refuse_overlap(train: str, test: str, *, images: int = 0) -> None:
    """Raise a `UserError` if an image file would be in both sets: each item is its own neighbour.

    Reads lists of files, no pixels, so it can stand before any work.

    Args:
        train: name of a data set.
        test: name of a data set.
        images: as in `read_probe_set`.
    """
    known, unknown = (_files(r["file_name"] for r in _records(n, images)) for n in (train, test))
    shared = known & unknown
    if shared:
        raise UserError(
            f"The probe's training set '{train}' and its test set '{test}' share {len(shared)} of "
            f"{len(unknown)} test images, such as {min(shared)}: scores on images whose classes "
            "were given mean nothing. Name two sets without common images."
        )


def _files(paths: Iterable[str]) -> set[str]:
    return {os.path.realpath(path) for path in paths}


def _records(name: str, images: int, *, sizes: bool = False) -> list[dict]:
    records = catalog.get_dataset(name, sizes=sizes)
    return subsets.select(records, images) if images and images < len(records) else records


_Columns = tuple[list[str], list[Region | None], list[np.ndarray]]


def _of_images(records: list[dict], classes: int) -> _Columns:
    rows = list(np.eye(classes, dtype=np.int8)[[record["label"] for record in records]])
    return [r["file_name"] for r in records], [None] * len(records), rows


def _of_boxes(records: list[dict], classes: int) -> _Columns:
    rows = []
    for record in records:
        row = np.zeros(classes, dtype=np.int8)
        for found in _objects(record):
            label = found["category_id"]
            row[label] = max(row[label], 1) if not found.get("difficult") else row[label] or -1
        rows.append(row)
    return [r["file_name"] for r in records], [None] * len(records), rows


def _of_objects(records: list[dict], classes: int) -> _Columns:
    files: list[str] = []
    regions: list[Region | None] = []
    rows = []
    for record in records:
        for found in _objects(record):
            if not found.get("difficult"):
                files.append(record["file_name"])
                regions.append(_square(found["bbox"], record["width"], record["height"]))
                rows.append(np.eye(classes, dtype=np.int8)[found["category_id"]])
    return files, regions, rows


def _objects(record: dict) -> list[dict]:
    if not record.get("width"):  # an unreadable image; it is counted when its pixels are asked for
        return []
    return clean_annotations(record.get("annotations", ()), record["width"], record["height"])


def _square(box: Sequence[float], width: int, height: int) -> Region:
    """The square around a box, with some context, cut at the image's borders."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    half = max(CONTEXT * max(box[2] - box[0], box[3] - box[1]) / 2, 1)
    left, top = max(0, int(x - half)), max(0, int(y - half))
    return (
        left,
        top,
        min(width, max(left + 1, round(x + half))),
        min(height, max(top + 1, round(y + half))),
    )


class ProbeImages(Dataset):
    """Pixels (3, size, size) uint8 RGB of each item; None where the file cannot be read.

    Args:
        probe_set: the items.
        size: side in pixels.
        epoch: None stretches items to the square, except that of images with one class the middle
            is cut out; a number draws a random crop and a mirror instead, as training does.
        seed: of these.
        shifted: draw no scale, only a place: 224 of the middle 256 pixels, as probes on Places do.
    """

    def __init__(
        self,
        probe_set: ProbeSet,
        size: int,
        *,
        epoch: int | None = None,
        seed: int = 0,
        shifted: bool = False,
    ) -> None:
        self.probe_set, self.size, self.epoch, self.seed = probe_set, size, epoch, seed
        self.shifted = shifted

    def __len__(self) -> int:
        return len(self.probe_set)

    def __getitem__(self, index: int) -> tuple[int, Tensor | None, str]:
        """(index, pixels, why there are none)."""
        try:
            pixels = read_image(self.probe_set.files[index])
        except BadImage as error:
            return index, None, str(error)
        region = self.probe_set.regions[index]
        if region is not None:
            left, top, right, bottom = region
            pixels = pixels[top:bottom, left:right]
        view = self._crop(index, *pixels.shape[:2]).apply_image(pixels)
        return index, torch.from_numpy(np.ascontiguousarray(view.transpose(2, 0, 1))), ""

    def _crop(self, index: int, height: int, width: int) -> Crop:
        if self.epoch is not None:
            rng = generator(self.seed, "probe", self.epoch, index)
            if self.shifted:
                return self._shift(rng, height, width)
            return RandomCrop(size=self.size, scale=RANDOM_SCALE).draw(rng, width, height)
        if self.probe_set.kind != "image":  # nothing that is labelled may be cut off
            return Crop(width, height, 0, 0, width, height, self.size)
        side = max(1, round(CENTRE * min(width, height)))
        left, top = (width - side) // 2, (height - side) // 2
        return Crop(width, height, left, top, left + side, top + side, self.size)

    def _shift(self, rng: np.random.Generator, height: int, width: int) -> Crop:
        square = min(width, height)
        side = max(1, round(CENTRE * square))
        x, y = rng.integers(0, square - side + 1, 2).tolist()
        left, top = (width - square) // 2 + x, (height - square) // 2 + y
        box = (left, top, left + side, top + side)
        return Crop(width, height, *box, self.size, flipped=bool(rng.random() < 0.5))
