"""`PriorStore`: boxes on disk, in generations that never change once they have their name.

store/store.json                   format and the folder that image names begin at
store/generation_0000/             manifest.json, files.json, index.bin, shard_00000.bin, ...
store/generation_0001.partial/     what is still being written, invisible to readers
"""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from d2_unsupdet.checkpoint.files import write_json
from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.found import Found
from d2_unsupdet.priors.generation import Generation, read_json
from d2_unsupdet.priors.merging import merge
from d2_unsupdet.priors.names import image_name, make_key
from d2_unsupdet.priors.shard_file import VERSION, ShardWriter

log = logging.getLogger(__name__)

STORE = "store.json"
_GENERATION = re.compile(r"generation_(\d{4,})")


class PriorStore:
    """A folder of generations.

    Example:
        >>> store = PriorStore("output/run/priors")
        >>> with store.write(0, {"source": "selective-search"}) as writer:
        ...     writer.add(record, 640, 480, boxes_normalised, scores)
        >>> store.open(0).lookup(record)

    Args:
        path: the folder; writing creates it.
        root: the folder that the names of images begin at. Default: what the store remembers;
            give it when the images have moved.
    """

    def __init__(self, path: str | os.PathLike, *, root: str | None = None) -> None:
        self.path = Path(path)
        self._root = root

    @property
    def root(self) -> str | None:
        """The folder that the names of images begin at; None: only the environment's roots."""
        if self._root is not None or not (self.path / STORE).is_file():
            return self._root
        return read_json(self.path / STORE)["root"]

    @property
    def generations(self) -> list[int]:
        """The numbers of what is published, in order."""
        if not self.path.is_dir():
            return []
        found = (_GENERATION.fullmatch(entry.name) for entry in self.path.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def open(self, generation: int | None = None) -> Generation:
        """A generation to read; default the last."""
        known = self.generations
        if not known:
            raise UserError(
                f"{self.path} holds no published boxes: make them with tools/extract_priors.py "
                f"--out {self.path}."
            )
        number = known[-1] if generation is None else generation
        if number not in known:
            raise UserError(f"{self.path} has no generation {number}; it has {known}.")
        return Generation(self.folder(number), self.root)

    def folder(self, generation: int) -> Path:
        """Where a generation is, or will be."""
        return self.path / f"generation_{generation:04d}"

    def partial(self, generation: int) -> Path:
        """Where it is written."""
        return self.path / f"generation_{generation:04d}.partial"

    def create(self) -> None:
        """Make the folder and remember the root; nothing changes if it is there."""
        self.path.mkdir(parents=True, exist_ok=True)
        root = None if self._root is None else os.path.abspath(self._root)
        if not (self.path / STORE).is_file():
            write_json(self.path / STORE, {"version": VERSION, "root": root})

    @contextmanager
    def write(
        self,
        generation: int,
        settings: Mapping[str, Any],
        *,
        orders: int = 0,
        kinds: bool = False,
        rank: int = 0,
        world: int = 1,
        barrier: Callable[[], object] = lambda: None,
    ) -> Iterator["GenerationWriter"]:
        """Write one generation: each rank its images, published when the block ends on all.

        What a killed writer left is removed first. The result, and its hash, do not depend on which
        rank added what.

        Args:
            generation: its number; it must not be published yet (see `remove`).
            settings: plain values that say how the boxes were made; part of the hash.
            orders: rows of drawn orders each image brings.
            kinds: whether boxes have kinds.
            rank: this process.
            world: how many of them.
            barrier: waits for all ranks.
        """
        if generation in self.generations:
            raise UserError(f"{self.path} has a generation {generation} already: remove it first.")
        partial = self.partial(generation)
        if rank == 0:
            self.create()
            if partial.exists():
                log.warning("Removing %s, which was never finished.", partial)
                shutil.rmtree(partial)
            partial.mkdir()
        barrier()
        path = partial / f"shard_{rank:05d}.bin"
        shard = ShardWriter(path, orders=orders, kinds=kinds)
        try:
            yield GenerationWriter(shard, self.root)
            shard.publish()
        except BaseException:
            shard.drop()
            raise
        barrier()
        if rank == 0:
            self.publish(generation, settings, shards=world)
        barrier()

    def publish(self, generation: int, settings: Mapping[str, Any], *, shards: int) -> Generation:
        """Merge what lies in the partial folder and give it its name, in one step."""
        partial = self.partial(generation)
        merge(partial, generation=generation, settings=settings, shards=shards)
        os.rename(partial, self.folder(generation))
        sync_folder(self.path)
        return self.open(generation)

    def remove(self, generation: int) -> None:
        """Delete a generation, published or not; readers that have it open keep what they read."""
        folder, partial = self.folder(generation), self.partial(generation)
        if folder.exists():
            shutil.rmtree(partial, ignore_errors=True)
            os.rename(folder, partial)  # invisible in one step, so that no half of it is ever read
        if partial.exists():
            shutil.rmtree(partial)


class GenerationWriter:
    """What `PriorStore.write` yields: takes the boxes of one image after the other."""

    def __init__(self, shard: ShardWriter, root: str | None) -> None:
        self._shard = shard
        self._root = root

    def add(
        self,
        record: Mapping[str, Any] | str,
        width: int,
        height: int,
        boxes: np.ndarray,
        scores: np.ndarray,
        kinds: np.ndarray | None = None,
        orders: np.ndarray | None = None,
    ) -> None:
        """One image.

        Args:
            record: of the catalog, or its path.
            width: of the upright original.
            height: likewise.
            boxes: (n, 4) XYXY, normalised by width and height.
            scores: (n,).
            kinds: (n,) small whole numbers, if the generation has kinds.
            orders: (k, m) indices into the boxes, if it has orders.
        """
        key = make_key(image_name(record, self._root), width, height)
        self._shard.add(key, Found(np.asarray(boxes), np.asarray(scores), kinds, orders))


def sync_folder(folder: Path) -> None:
    """Make a rename in it durable, where the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        log.debug("%s cannot be synced: %s", folder, error)
    finally:
        os.close(descriptor)
