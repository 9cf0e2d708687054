"""ImageNet-like folders: the folder above an image is its class (for probes, not for boxes)."""

import os
from pathlib import Path

from d2_unsupdet.data.readers.folder import image_files
from d2_unsupdet.errors import UserError


def imagenet_classes(root: Path) -> list[str]:
    """The class folders of one split, sorted; the position is the label."""
    with os.scandir(root) as entries:
        classes = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    if not classes:
        raise UserError(
            f"{root} holds no class folders; a flat validation folder is turned into class folders "
            "by datasets/prepare_imagenet.py."
        )
    return classes


def read_imagenet(root: Path) -> list[dict]:
    """Records with `label`, the index of the class folder in sorted order."""
    records = []
    for label, name in enumerate(imagenet_classes(root)):
        for path in sorted(image_files(root / name, [])):
            image_id = f"{name}/{path}"
            file_name = os.path.join(root, image_id)
            records.append({"file_name": file_name, "image_id": image_id, "label": label})
    if not records:
        raise UserError(f"The class folders of {root} hold no image.")
    return records
