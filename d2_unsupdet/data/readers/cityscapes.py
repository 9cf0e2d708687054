"""Cityscapes, fine annotations, read from the label PNGs (no cityscapesscripts, no shapely).

`*_instanceIds.png` holds label * 1000 + number for an object and the bare label for a group that
was not told apart (a crowd).
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from detectron2.structures import BoxMode
from scipy.ndimage import find_objects

from d2_unsupdet.data.images import BadImage, read_label_map
from d2_unsupdet.data.polygons import mask_to_polygons
from d2_unsupdet.errors import UserError

# label id in the files -> class; the position is the training id. The last eight are objects.
CITYSCAPES_LABELS = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole",
    19: "traffic light", 20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky",
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle",
    33: "bicycle",
}  # fmt: skip
STUFF_CLASSES = tuple(CITYSCAPES_LABELS.values())
THING_LABELS = tuple(list(CITYSCAPES_LABELS)[11:])
THING_CLASSES = STUFF_CLASSES[11:]
IGNORE = 255


def cityscapes_files(image_dir: Path, label_dir: Path, suffix: str) -> list[tuple[str, str]]:
    """(image, label file) of every `<city>/*_leftImg8bit.png`, sorted."""
    pairs = []
    for image in sorted(image_dir.glob("*/*_leftImg8bit.png")):
        name = image.name.replace("_leftImg8bit.png", f"_gtFine_{suffix}")
        pairs.append((str(image), os.path.join(label_dir, image.parent.name, name)))
    if not pairs:
        raise UserError(f"{image_dir} holds no <city>/*_leftImg8bit.png.")
    return pairs


def read_cityscapes_instances(image_dir: Path, label_dir: Path) -> list[dict]:
    """Records with boxes and polygons of the eight object classes."""
    pairs = cityscapes_files(image_dir, label_dir, "instanceIds.png")
    with ThreadPoolExecutor(min(len(pairs), os.cpu_count() or 1, 16)) as pool:
        return list(pool.map(_instances, pairs))


def read_cityscapes_semantic(image_dir: Path, label_dir: Path) -> list[dict]:
    """Records with `sem_seg_file_name`: maps of the 19 training ids, 255 = ignore."""
    pairs = cityscapes_files(image_dir, label_dir, "labelTrainIds.png")
    if not os.path.exists(pairs[0][1]):
        raise UserError(
            f"{pairs[0][1]} does not exist; make the training label maps from the downloaded ones "
            f"with: python datasets/prepare_cityscapes.py {label_dir.parent.parent}"
        )
    sizes = _label_map(pairs[0][1]).shape  # one size in the whole data set: 1024 x 2048
    return [
        {
            "file_name": image,
            "image_id": Path(image).stem.replace("_leftImg8bit", ""),
            "height": sizes[0],
            "width": sizes[1],
            "sem_seg_file_name": label,
        }
        for image, label in pairs
    ]


def train_ids(labels: np.ndarray) -> np.ndarray:
    """Label ids of the files -> training ids 0-18, 255 for the rest."""
    lookup = np.full(256, IGNORE, np.uint8)
    lookup[list(CITYSCAPES_LABELS)] = np.arange(len(CITYSCAPES_LABELS))
    return lookup[labels.astype(np.uint8)]


def _label_map(path: str) -> np.ndarray:
    try:
        return read_label_map(path)
    except BadImage as error:
        raise UserError(f"The label map {path} is missing or cannot be read.") from error


def _instances(pair: tuple[str, str]) -> dict:
    image, label_file = pair
    ids = _label_map(label_file)
    present = np.flatnonzero(np.bincount(ids.ravel())).tolist()
    wanted = [i for i in present if (i // 1000 if i >= 1000 else i) in THING_LABELS]
    rank = np.zeros(present[-1] + 1, np.int32)
    rank[wanted] = np.arange(1, len(wanted) + 1)
    windows = find_objects(rank[ids], len(wanted))  # one pass over the 2 million pixels for all
    return {
        "file_name": image,
        "image_id": Path(image).stem.replace("_leftImg8bit", ""),
        "height": ids.shape[0],
        "width": ids.shape[1],
        "annotations": [
            _annotation(ids[window] == number, number, window)
            for number, window in zip(wanted, windows, strict=True)
        ],
    }


def _annotation(mask: np.ndarray, number: int, window: tuple[slice, slice]) -> dict:
    rows, columns = window
    label = number // 1000 if number >= 1000 else number
    return {
        "category_id": THING_LABELS.index(label),
        "bbox": [columns.start, rows.start, columns.stop, rows.stop],
        "bbox_mode": BoxMode.XYXY_ABS,
        "iscrowd": int(number < 1000),
        "segmentation": mask_to_polygons(mask, (rows.start, columns.start)),
    }
