"""Semantic segmentation: an image and a label map of the same relative path, without extension."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np

from d2_unsupdet.data.images import BadImage, read_label_map
from d2_unsupdet.data.readers.common import count_text, read_names, warn_once
from d2_unsupdet.data.readers.folder import image_files
from d2_unsupdet.errors import UserError


def read_sem_seg(image_root: Path, label_root: Path, *, suffix: str = ".png") -> list[dict]:
    """Records with `sem_seg_file_name`; images without a label map are left out and counted.

    Args:
        image_root: folder of the images, any nesting.
        label_root: folder of the label maps, the same nesting.
        suffix: what follows the image's stem in the label's name.
    """
    images, records = sorted(image_files(image_root, [])), []
    for image_id in images:
        stem = str(PurePosixPath(image_id).with_suffix(""))
        label = os.path.join(label_root, stem + suffix)
        if os.path.exists(label):
            file_name = os.path.join(image_root, image_id)
            records.append(
                {"file_name": file_name, "image_id": image_id, "sem_seg_file_name": label}
            )
    if not records:
        raise UserError(
            f"None of the {count_text(len(images), 'image')} in {image_root} has a label map "
            f"<name>{suffix} in {label_root}."
        )
    if len(records) < len(images):
        missing = count_text(len(images) - len(records), "image")
        warn_once(f"{image_root}: left out {missing} without a label map in {label_root}.")
    return records


def sem_seg_classes(label_root: Path, *, ignore_label: int = 255, look_at: int = 200) -> list[str]:
    """Class names: the lines of `classes.txt` in the label folder, else the numbers 0 to the
    greatest value in the first maps.

    Args:
        label_root: folder of the label maps, any nesting.
        ignore_label: the value that is no class.
        look_at: how many maps are read to find the greatest value.
    """
    listed = label_root / "classes.txt"
    if listed.exists():
        names = read_names(listed)
        if not names or len(set(names)) < len(names):
            raise UserError(f"{listed} must name each class once, one a line, in label order.")
        return names
    maps = sorted(image_files(label_root, []))[:look_at]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        found = pool.map(lambda name: _values(label_root / name), maps)
    values = set().union(*found) - {ignore_label}
    if not values:
        raise UserError(f"{label_root} holds no label map with a class in it.")
    names = [str(number) for number in range(max(values) + 1)]
    warn_once(
        f"{label_root} has no classes.txt: the {count_text(len(maps), 'label map')} read first "
        f"have values up to {max(values)}, so the classes are the numbers 0 to {max(values)}."
    )
    return names


def _values(path: Path) -> set[int]:
    try:
        return set(np.unique(read_label_map(path)).tolist())
    except BadImage:  # the mapper names it when it comes to it
        return set()
