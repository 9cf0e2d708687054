"""One file of a generation: the boxes of some images, one piece of bytes each, then their table.

    magic, pieces ..., table (columns one after the other), footer (JSON), its length, magic

Each piece has a hash that covers the image's key as well, so that a corrupted byte, or a piece of
another image, is noticed when it is read. Little endian throughout; `VERSION` is in the footer.
"""

import hashlib
import json
import os
import secrets
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.found import Found
from d2_unsupdet.priors.names import Key

VERSION = 1
MAGIC = b"D2PRIORS"
TAIL = struct.Struct("<Q8s")
DIGEST = 16
# one row an image; `high`, `low` are its key
COLUMNS: dict[str, np.dtype] = {
    "high": np.dtype("<u8"),
    "low": np.dtype("<u8"),
    "digest": np.dtype(("<u1", (DIGEST,))),
    "offset": np.dtype("<u8"),
    "size": np.dtype("<u4"),
    "count": np.dtype("<u4"),
}
Table = dict[str, np.ndarray]


def encode(found: Found, *, orders: int, kinds: bool) -> bytes:
    """The bytes of one image's boxes: boxes, scores, kinds, then the number and rows of orders."""
    _check(found, orders, kinds)
    parts = [np.asarray(found.boxes, "<f4"), np.asarray(found.scores, "<f4")]
    if kinds:
        parts.append(np.asarray(found.kinds, "u1"))
    if orders:
        parts.append(np.asarray(found.orders, "<u2"))
    return b"".join(part.tobytes() for part in parts)


def _check(found: Found, orders: int, kinds: bool) -> None:
    count = len(found.boxes)
    fits = found.boxes.shape == (count, 4) and found.scores.shape == (count,)
    fits &= not kinds or (found.kinds is not None and found.kinds.shape == (count,))
    drawn = () if found.orders is None else found.orders.shape
    fits &= not orders or (len(drawn) == 2 and drawn[0] == orders)
    if not fits:
        kind = None if found.kinds is None else found.kinds.shape
        raise UserError(
            f"A box source gave boxes {found.boxes.shape}, scores {found.scores.shape}, kinds "
            f"{kind} and orders {drawn or None}; the store expects (n, 4), (n,), "
            f"{'(n,)' if kinds else 'any'} and {f'({orders}, m)' if orders else 'any'}."
        )
    if orders and count > np.iinfo("<u2").max:
        raise UserError(f"{count} boxes in one image are too many for drawn orders (65,535).")


def decode(piece: bytes, count: int, *, orders: int, kinds: bool) -> Found:
    """The other way round; the arrays are read-only."""
    boxes = np.frombuffer(piece, "<f4", 4 * count).reshape(count, 4)
    scores = np.frombuffer(piece, "<f4", count, 16 * count)
    at = 20 * count
    labels = np.frombuffer(piece, "u1", count, at) if kinds else None
    at += count if kinds else 0
    drawn = np.frombuffer(piece, "<u2", -1, at).reshape(orders, -1) if orders else None
    return Found(boxes, scores, labels, drawn)


def piece_digest(key: Key, count: int, piece: bytes) -> bytes:
    """What is compared when a piece is read."""
    head = struct.pack("<QQI", *key, count)
    return hashlib.blake2b(head + piece, digest_size=DIGEST).digest()


class ShardWriter:
    """Writes a shard under a temporary name; `publish` puts it in place, whole or not at all.

    Args:
        path: where it will be.
        orders: rows of orders that each image has.
        kinds: whether boxes have kinds.
        sync: wait until the bytes are on the disk before the shard gets its name.
    """

    def __init__(self, path: Path, *, orders: int = 0, kinds: bool = False, sync: bool = True):
        self.path = path
        self.orders = orders
        self.kinds = kinds
        self.sync = sync
        self.bad: list[tuple[str, str]] = []
        self._rows: dict[str, list] = {name: [] for name in COLUMNS}
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        self._file: BinaryIO = open(self._temporary, "xb")  # noqa: SIM115 (closed by publish, drop)
        self._file.write(MAGIC)

    def add(self, key: Key, found: Found) -> None:
        """One image's boxes, normalised."""
        piece = encode(found, orders=self.orders, kinds=self.kinds)
        digest = piece_digest(key, len(found), piece)
        row = (*key, digest, self._file.tell(), len(piece), len(found))
        for column, value in zip(self._rows.values(), row, strict=True):
            column.append(value)
        self._file.write(piece)

    def publish(self) -> None:
        """Write the table and the footer, wait for the disk, rename."""
        start = self._file.tell()
        rows = dict(self._rows, digest=np.frombuffer(b"".join(self._rows["digest"]), "u1"))
        for name, kind in COLUMNS.items():
            self._file.write(np.asarray(rows[name], kind.base).tobytes())
        footer = {
            "version": VERSION,
            "images": len(self._rows["high"]),
            "boxes": int(sum(self._rows["count"])),
            "table": start,
            "orders": self.orders,
            "kinds": self.kinds,
            "bad": self.bad,
        }
        text = json.dumps(footer).encode()
        self._file.write(text + TAIL.pack(len(text), MAGIC))
        self._file.flush()
        if self.sync:
            os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self.path)

    def drop(self) -> None:
        """Forget what was written."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def read_footer(path: Path) -> dict[str, Any]:
    """The footer of a published shard; a file that is cut or foreign is an error."""
    try:
        with open(path, "rb") as file:
            file.seek(-TAIL.size, os.SEEK_END)
            length, magic = TAIL.unpack(file.read(TAIL.size))
            file.seek(-TAIL.size - length, os.SEEK_END)
            footer = json.loads(file.read(length)) if magic == MAGIC else None
    except (OSError, ValueError, struct.error) as error:
        raise damaged(path, str(error)) from error
    if not isinstance(footer, Mapping) or "table" not in footer:
        raise damaged(path, "its footer is missing")
    if footer.get("version") != VERSION:
        raise UserError(
            f"{path} has version {footer.get('version')} and this program reads {VERSION}: extract "
            "the boxes again, or use the version that wrote them."
        )
    return dict(footer)


def read_table(path: Path, footer: Mapping[str, Any]) -> Table:
    """The columns of a shard, into memory: 48 bytes an image."""
    table, images = {}, footer["images"]
    with open(path, "rb") as file:
        file.seek(footer["table"])
        for name, kind in COLUMNS.items():
            data = file.read(kind.itemsize * images)
            if len(data) != kind.itemsize * images:
                raise damaged(path, "its table is cut")
            table[name] = np.frombuffer(data, kind.base).reshape(images, *kind.shape)
    return table


def damaged(path: Path, reason: str) -> UserError:
    """The error for bytes that are not what was written."""
    return UserError(
        f"{path} is damaged ({reason}): copy it again, or delete its generation and extract anew."
    )
