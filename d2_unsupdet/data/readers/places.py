"""Places365 and Places205: images of one scene class each, in class folders or by official lists.

A list has lines `/a/airfield/00000001.jpg 0`; those of Places365's validation images name no class
but its number. Labels are the lists' own.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from d2_unsupdet.data.readers.common import first_must_exist, read_text
from d2_unsupdet.data.readers.imagenet import imagenet_classes, read_imagenet
from d2_unsupdet.errors import UserError

_PLACES = ("", "filelist_places365-standard/")  # as it unpacks
# (edition, split) -> where the list may be, where its images; the first that is there counts
LISTS = {
    ("365", "train"): (
        tuple(f"{place}places365_train_standard.txt" for place in _PLACES),
        ("data_256_standard", "data_large_standard", "data_256", "data_large"),
    ),
    ("365", "val"): (
        tuple(f"{place}places365_val.txt" for place in _PLACES),
        ("val_256", "val_large"),
    ),
    ("205", "train"): (
        ("trainvalsplit_places205/train_places205.csv", "train_places205.csv"),
        ("data/vision/torralba/deeplearning/images256", "images256"),
    ),
    ("205", "val"): (
        ("trainvalsplit_places205/val_places205.csv", "val_places205.csv"),
        ("data/vision/torralba/deeplearning/images256", "images256"),
    ),
}
CATEGORIES = tuple(f"{place}categories_places365.txt" for place in _PLACES)


def places_paths(root: Path, edition: str, split: str) -> list[Path]:
    """What must be there: list and images, where the list is; else the folder of the split."""
    lists, folders = LISTS[edition, split]
    listed = _first(root, lists)
    if listed is None:
        return [root / split]
    categories = [root / CATEGORIES[0]] if edition == "365" and not _first(root, CATEGORIES) else []
    return [listed, _first(root, folders) or root / folders[0], *categories]


def places_classes(root: Path, edition: str, split: str) -> list[str]:
    """Names in label order: of the list of categories, else of the folders in the training list."""
    if _first(root, LISTS[edition, split][0]) is None:
        return imagenet_classes(root / split)
    source = _first(root, CATEGORIES if edition == "365" else LISTS["205", "train"][0])
    if source is None:
        raise UserError(f"{root} has no {LISTS['205', 'train'][0][0]}, which names the classes.")
    return list(_names(source, source.stat().st_mtime_ns))


def read_places(root: Path, edition: str, split: str) -> list[dict]:
    """Records with `label`."""
    lists, folders = LISTS[edition, split]
    listed, images = _first(root, lists), _first(root, folders)
    if listed is None:
        return read_imagenet(root / split)
    assert images is not None  # the catalog has looked
    count = len(places_classes(root, edition, split))
    records = []
    for path, label in _lines(listed):
        if label >= count:
            raise UserError(f"{listed} gives {path} the class {label}, but there are {count}.")
        records.append({"file_name": os.path.join(images, path), "image_id": path, "label": label})
    first_must_exist(records, listed)
    return records


@lru_cache(maxsize=4)
def _names(source: Path, _: int) -> tuple[str, ...]:
    """`/a/airfield 0` or `/a/airfield/00000001.jpg 0` -> the name of each label."""
    names: dict[int, str] = {}
    for path, label in _lines(source):
        names.setdefault(label, path if source.name in CATEGORIES else os.path.dirname(path))
    if sorted(names) != list(range(len(names))):
        raise UserError(f"The labels in {source} are not 0 to {max(names, default=0)}.")
    return tuple(names[label].partition("/")[2] for label in range(len(names)))  # a/airfield


def _lines(file: Path) -> list[tuple[str, int]]:
    """Path without a leading stroke, and label; a blank or a comma stands between them."""
    found = []
    for line in read_text(file).splitlines():
        path, _, label = line.strip().replace(",", " ").rpartition(" ")
        if path and label.isdigit() and ".." not in path:
            found.append((path.strip().lstrip("/"), int(label)))
        elif line.strip():
            raise UserError(f"{file} has the line {line.strip()!r}; expected <path> <label>.")
    if not found:
        raise UserError(f"{file} names no image.")
    return found


def _first(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).exists()), None)
