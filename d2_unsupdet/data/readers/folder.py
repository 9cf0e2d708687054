"""Any folder of images, any nesting, no labels."""

import os
from collections.abc import Iterator
from pathlib import Path

from d2_unsupdet.data.readers.common import count_text, warn_once
from d2_unsupdet.errors import UserError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def read_folder(root: Path) -> list[dict]:
    """A record for each image below `root`; `image_id` is its relative path with `/`.

    Hidden files are skipped, links are followed, other files are skipped and counted.
    """
    stray: list[str] = []
    paths = sorted(image_files(root, stray))
    if not paths:
        raise UserError(
            f"The folder {root} holds no image ({count_text(len(stray), 'other file')}); "
            f"expected files ending in {' '.join(IMAGE_EXTENSIONS)}."
        )
    if stray:
        verb = "is not an image" if len(stray) == 1 else "are not images"
        warn_once(f"{root}: skipped {count_text(len(stray), 'file')} that {verb}.")
    return [{"file_name": os.path.join(root, path), "image_id": path} for path in paths]


def image_files(root: Path, stray: list[str]) -> Iterator[str]:
    """Relative paths of the images below `root`, unsorted; other files are added to `stray`."""
    waiting = [("", frozenset({os.path.realpath(root)}))]  # (folder, folders around it)
    while waiting:
        folder, around = waiting.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                relative = folder + entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    real = os.path.realpath(entry.path)
                    if real not in around:  # a link to a folder around it would never end
                        waiting.append((relative + "/", around | {real}))
                elif entry.name.lower().endswith(IMAGE_EXTENSIONS):
                    yield relative
                else:
                    stray.append(relative)
