"""How an image is called in a store: its path below a root, and the size of its pixels.

The roots are the store's own folder of images, then the data sets' (DETECTRON2_DATASETS) and the
embedded data's. So a store can move with its images, and same-named files in two folders stay two.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from d2_unsupdet.data.catalog import datasets_root
from d2_unsupdet.data.toy import cache_root

DATASETS, CACHE = "$DATASETS", "$CACHE"  # what stands for the two roots that the environment names
UNREAD = (0, 0)  # in place of the size of an image whose file could not be read


class Key(NamedTuple):
    """128 bits of a hash of name and size, as two unsigned numbers."""

    high: int
    low: int


def make_key(name: str, width: int, height: int) -> Key:
    """The key of an image; a file that was resized is another image."""
    text = f"{name}\x1f{width}\x1f{height}".encode()
    digest = hashlib.blake2b(text, digest_size=16).digest()
    return Key(int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big"))


def image_name(record: Mapping[str, Any] | str, root: str | os.PathLike | None = None) -> str:
    """The image's path below the first root that holds it, with `/`; else its absolute path.

    Args:
        record: a record of the catalog, or the path itself.
        root: the store's own folder of images.
    """
    path = record if isinstance(record, str) else os.fspath(record["file_name"])
    if "://" in path:  # not of this machine, so the same everywhere
        return path
    path = os.path.abspath(path)
    if root is not None and (name := _below(path, root)):
        return name
    for mark, place in ((DATASETS, datasets_root()), (CACHE, cache_root())):
        if name := _below(path, place):
            return f"{mark}/{name}"
    return Path(path).as_posix()


def common_root(records: Iterable[Mapping[str, Any]]) -> str | None:
    """The folder that holds all images, unless the environment's roots name each of them."""
    paths = [os.fspath(record["file_name"]) for record in records]
    if not any(os.path.isabs(image_name(path)) for path in paths):
        return None
    return os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])


def _below(path: str, root: str | os.PathLike) -> str | None:
    start = _start(os.fspath(root), os.getcwd())
    return path[len(start) :].replace(os.sep, "/") if path.startswith(start) else None


@cache
def _start(root: str, _here: str) -> str:
    """With a separator at its end; relative roots depend on the current folder."""
    return os.path.abspath(os.path.expanduser(root)).rstrip(os.sep) + os.sep
