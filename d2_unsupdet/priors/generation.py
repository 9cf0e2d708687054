"""One immutable set of boxes of a data set: found by key in a memory-mapped index.

Nothing is opened before its first use in each process, so a `Generation` can be pickled and forked.
Each piece is compared with its hash when it is read: a wrong byte is an error, never a wrong box.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.found import Found
from d2_unsupdet.priors.names import UNREAD, Key, image_name, make_key
from d2_unsupdet.priors.shard_file import COLUMNS, Table, damaged, decode, piece_digest

MANIFEST, FILES, INDEX = "manifest.json", "files.json", "index.bin"
INDEX_COLUMNS = {**COLUMNS, "shard": np.dtype("<u4")}


class Generation:
    """The boxes of a data set, as they were once.

    Example:
        >>> generation = PriorStore("priors/coco").open()
        >>> found = generation.lookup(record)  # normalised, None if the image is not in it
        >>> found.scaled(width, height).boxes

    Args:
        folder: where it was published.
        root: the folder that the names of the images begin at, see `names.image_name`.
    """

    def __init__(self, folder: Path, root: str | None = None) -> None:
        self.folder = Path(folder)
        self.root = root

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "root": self.root}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # the state is the constructor's arguments

    def __len__(self) -> int:
        """Images, those without boxes included."""
        return self.manifest["images"]

    @property
    def number(self) -> int:
        """Which generation of its store it is."""
        return self.manifest["generation"]

    @cached_property
    def sha256(self) -> str:
        """The hash of the manifest, which names content and settings, not how it was computed."""
        return hashlib.sha256((self.folder / MANIFEST).read_bytes()).hexdigest()

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What it holds and how it was made."""
        return read_json(self.folder / MANIFEST)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its writer was told."""
        return self.manifest["settings"]

    def lookup(
        self, record: Mapping[str, Any] | str, width: int | None = None, height: int | None = None
    ) -> Found | None:
        """The normalised boxes of an image, or None if it is not in this generation.

        An image whose file could not be read then is kept by its name alone, and found by it.

        Args:
            record: of the catalog, or a path.
            width: of the upright image; default the record's.
            height: likewise.
        """
        if width is None or height is None:
            width, height = _size(record)
        name = image_name(record, self.root)
        row = self.find(make_key(name, width, height))
        if row is None:
            row = self.find(make_key(name, *UNREAD))
        return None if row is None else self.read(row)

    def find(self, key: Key) -> int | None:
        """The row of a key."""
        high, low = self.index["high"], self.index["low"]
        at = int(np.searchsorted(high, np.uint64(key.high)))
        while at < len(high) and high[at] == key.high:
            if low[at] == key.low:
                return at
            at += 1
        return None

    def read(self, row: int) -> Found:
        """The normalised boxes of a row; rows are in the order of the keys."""
        table = self.index
        key = Key(int(table["high"][row]), int(table["low"][row]))
        shard, count = int(table["shard"][row]), int(table["count"][row])
        start, size = int(table["offset"][row]), int(table["size"][row])
        path = self.folder / self.files["shards"][shard]["name"]
        piece = _read_piece(path, start, size)
        if piece_digest(key, count, piece) != table["digest"][row].tobytes():
            raise damaged(path, f"at byte {start}")
        manifest = self.manifest
        return decode(piece, count, orders=manifest["orders"], kinds=manifest["kinds"])

    def counts(self) -> np.ndarray:
        """Boxes of each row."""
        return self.index["count"]

    def verify(self) -> None:
        """Read all bytes and compare them with the hashes; raises for the first that differ."""
        listed = [*self.files["shards"], self.files["index"]]
        for entry in listed:
            path = self.folder / entry["name"]
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                    raise damaged(path, "its SHA-256 is not the one that was written")
        for row in range(len(self)):
            self.read(row)

    @cached_property
    def files(self) -> dict[str, Any]:
        """Names, sizes and hashes of the files."""
        files = read_json(self.folder / FILES)
        for entry in [*files["shards"], files["index"]]:
            path = self.folder / entry["name"]
            size = path.stat().st_size if path.is_file() else None
            if size != entry["size"]:
                raise damaged(path, f"{size} bytes instead of {entry['size']}")
        return files

    @cached_property
    def index(self) -> Table:
        """The table of all images, sorted by key, memory-mapped; its content is checked once."""
        path = self.folder / self.files["index"]["name"]
        table = dict(_columns(path, len(self)))
        if content_sha256(table) != self.manifest["content"]:
            raise damaged(path, "it does not lead to the content that the manifest names")
        return table


def _read_piece(path: Path, start: int, size: int) -> bytes:
    """Opened for each piece: a process may not have as many files open as ImageNet has shards."""
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            return file.read(size)
    except OSError as error:
        raise damaged(path, str(error)) from error


def _size(record: Mapping[str, Any] | str) -> tuple[int, int]:
    if isinstance(record, str) or not (record.get("width") and record.get("height")):
        name = record if isinstance(record, str) else record.get("file_name")
        raise UserError(
            f"The size of {name} is not known, and its boxes are stored under name and size: give "
            "width and height, or read the data set with sizes."
        )
    return record["width"], record["height"]


def content_sha256(table: Mapping[str, np.ndarray]) -> str:
    """A hash of keys, counts and hashes of the pieces in key order: the same for any sharding."""
    digest = hashlib.sha256()
    for name in ("high", "low", "digest", "count"):
        digest.update(np.ascontiguousarray(table[name]).data)
    return digest.hexdigest()


def _columns(path: Path, images: int) -> Iterator[tuple[str, np.ndarray]]:
    if not images:
        for name, kind in INDEX_COLUMNS.items():
            yield name, np.zeros((0, *kind.shape), kind.base)
        return
    flat = np.memmap(path, "u1", mode="r")
    at = 0
    for name, kind in INDEX_COLUMNS.items():
        end = at + kind.itemsize * images
        if end > len(flat):
            raise damaged(path, "it is cut")
        yield name, flat[at:end].view(kind.base).reshape(images, *kind.shape)
        at = end


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """A JSON object of a store; anything else is damage."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(Path(path), str(error)) from error
    if not isinstance(content, dict):
        raise damaged(Path(path), "it is no JSON object")
    return content
