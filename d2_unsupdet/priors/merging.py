"""From shards to a generation: only their tables are read, 48 bytes an image; boxes stay put."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from d2_unsupdet.checkpoint.files import atomic_write, write_json
from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.generation import FILES, INDEX, INDEX_COLUMNS, MANIFEST, content_sha256
from d2_unsupdet.priors.shard_file import VERSION, Table, read_footer, read_table


def shard_name(shard: int) -> str:
    """The file of shard number `shard`."""
    return f"shard_{shard:05d}.bin"


def merge(folder: Path, *, generation: int, settings: Mapping[str, Any], shards: int) -> None:
    """Write index, list of files and manifest into a folder of published shards.

    Args:
        folder: with `shard_00000.bin` to the last.
        generation: its number.
        settings: how the boxes were made.
        shards: how many there must be.
    """
    paths = [folder / shard_name(shard) for shard in range(shards)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise UserError(f"{folder} lacks {len(missing)} of its shards, {missing[0]} first.")
    footers = [read_footer(path) for path in paths]
    table = _without_repeats(_sorted(_joined(paths, footers)), folder)
    index = atomic_write(folder / INDEX, lambda file: _write_columns(file, table))
    written = [{"name": path.name, **_described(path)} for path in paths]
    entry = {"name": INDEX, "size": index.size, "sha256": index.sha256}
    write_json(folder / FILES, {"shards": written, "index": entry})
    bad = sorted(tuple(found) for footer in footers for found in footer["bad"])
    manifest = {
        "version": VERSION,
        "generation": generation,
        "settings": dict(settings),
        "images": len(table["high"]),
        "boxes": int(table["count"].sum(dtype=np.int64)),
        "orders": _same(footers, "orders", folder),
        "kinds": _same(footers, "kinds", folder),
        "content": content_sha256(table),
        "bad": [list(found) for found in bad],
    }
    write_json(folder / MANIFEST, manifest)


def _joined(paths: list[Path], footers: list[dict[str, Any]]) -> Table:
    tables = [read_table(path, footer) for path, footer in zip(paths, footers, strict=True)]
    joined = {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}
    sizes = [footer["images"] for footer in footers]
    joined["shard"] = np.repeat(np.arange(len(paths), dtype="<u4"), sizes)
    return joined


def _sorted(table: Table) -> Table:
    order = np.lexsort((table["shard"], table["low"], table["high"]))
    return {name: column[order] for name, column in table.items()}


def _without_repeats(table: Table, folder: Path) -> Table:
    """An image that is listed twice is kept once, if both have the same boxes."""
    same = (table["high"][1:] == table["high"][:-1]) & (table["low"][1:] == table["low"][:-1])
    if not same.any():
        return table
    if (table["digest"][1:] != table["digest"][:-1])[same].any():
        raise UserError(
            f"{folder}: an image was added twice with different boxes; add each image once."
        )
    keep = np.concatenate([[True], ~same])
    return {name: column[keep] for name, column in table.items()}


def _write_columns(file: Any, table: Table) -> None:
    for name, kind in INDEX_COLUMNS.items():
        file.write(np.ascontiguousarray(table[name], kind.base).data.cast("B"))


def _described(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def _same(footers: list[dict[str, Any]], name: str, folder: Path) -> Any:
    values = {footer[name] for footer in footers}
    if len(values) != 1:
        raise UserError(f"The shards of {folder} disagree about {name}: {sorted(values)}.")
    return values.pop()
