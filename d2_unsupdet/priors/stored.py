"""Boxes that were found before: a `PriorStore` as a box source."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np

from d2_unsupdet.data.images import BadImage, image_size
from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.found import Found
from d2_unsupdet.priors.generation import Generation
from d2_unsupdet.priors.names import image_name
from d2_unsupdet.priors.store import PriorStore

LOOKS = 16  # images of a data set that `check` looks up


class StoredBoxes:
    """Looks an image up; of several stored orders it draws one each time.

    Example:
        >>> source = StoredBoxes(path="priors/coco_selective_search")
        >>> source(record, pixels, rng).boxes  # in pixels of the original image

    Args:
        path: folder of the store.
        generation: which of its generations; default the last at the first look-up.
        root: the folder that image names begin at, if the images have moved since.
        sha256: of the generation, if no other boxes shall pass for it.
    """

    def __init__(
        self,
        *,
        path: str | os.PathLike,
        generation: int | None = None,
        root: str | None = None,
        sha256: str | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.number = generation
        self.root = root
        self.sha256 = sha256

    @cached_property
    def generation(self) -> Generation:
        """What is read, opened when it is first needed."""
        store = PriorStore(self.path, root=self.root)
        if self.sha256 is None:
            return store.open(self.number)
        there = self.number in store.generations
        found = store.open(self.number) if there else None
        if found is None or found.sha256 != self.sha256:
            state = "has other boxes now" if there else "is not there any more"
            raise UserError(
                f"Generation {self.number} of {self.path}, which the run was trained on "
                f"({self.sha256[:12]}...), {state}: bring it back, or start the run anew."
            )
        return found

    def pinned(self, generation: int, sha256: str) -> "StoredBoxes":
        """The same store at this generation alone; nothing is opened, so each process looks."""
        return StoredBoxes(path=self.path, generation=generation, root=self.root, sha256=sha256)

    def __call__(
        self, record: Mapping[str, Any], pixels: np.ndarray, rng: np.random.Generator
    ) -> Found:
        """The stored boxes; an image that was never looked at is an error."""
        height, width = pixels.shape[:2]
        found = self.generation.lookup(record, width, height)
        if found is None:
            raise self._unknown(record, (width, height))
        return found.drawn(rng).scaled(width, height)

    def check(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Raise a `UserError` unless the store is there and is of these images.

        Looks up a few of them, evenly spread, the first and the last included: meant for the start
        of a program, before any work.
        """
        count = min(LOOKS, len(records))
        places = {round(i * (len(records) - 1) / max(count - 1, 1)) for i in range(count)}
        generation = self.generation
        for place in sorted(places):
            with suppress(BadImage):  # is an entry, or is counted when the loader comes to it
                size = image_size(records[place]["file_name"])
                if generation.lookup(records[place], *size) is None:
                    raise self._unknown(records[place], size, of=len(records))

    def _unknown(
        self, record: Mapping[str, Any], size: tuple[int, int], of: int | None = None
    ) -> UserError:
        generation, (width, height) = self.generation, size
        name, made = image_name(record, generation.root), generation.settings
        kept = ", ".join(f"{k} {made[k]}" for k in ("dataset", "subset") if made.get(k) is not None)
        holds = f"{len(generation):,} images" + (f" ({kept})" if kept else "")
        asked = f", of {of:,} asked for" if of else ""
        fix = "extract the boxes of the data set that is read here"
        if made.get("subset") is not None:
            fix += f", or read the same images of it (subset={made['subset']})"
        return UserError(
            f"{generation.folder} knows no image '{name}' of {width} x {height} pixels; it holds "
            f"{holds}{asked}: {fix}, or give root= if the images have moved."
        )
