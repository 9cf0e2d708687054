"""Semantic segmentation: an image and a label map of the same relative path, without extension."""

import os
from pathlib import Path, PurePosixPath

from d2_unsupdet.data.readers.common import count_text, warn_once
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
