"""Boxes that were found before: a `PriorStore` as a box source."""

import os
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.found import Found
from d2_unsupdet.priors.generation import Generation
from d2_unsupdet.priors.names import image_name
from d2_unsupdet.priors.store import PriorStore


class StoredBoxes:
    """Looks an image up; of several stored orders it draws one each time.

    Example:
        >>> source = StoredBoxes(path="priors/coco_selective_search")
        >>> source(record, pixels, rng).boxes  # in pixels of the original image

    Args:
        path: folder of the store.
        generation: which of its generations; default the last at the first look-up.
        root: the folder that image names begin at, if the images have moved since.
    """

    def __init__(
        self, *, path: str | os.PathLike, generation: int | None = None, root: str | None = None
    ) -> None:
        self.path = os.fspath(path)
        self.number = generation
        self.root = root

    @cached_property
    def generation(self) -> Generation:
        """What is read, opened when it is first needed."""
        return PriorStore(self.path, root=self.root).open(self.number)

    def __call__(
        self, record: Mapping[str, Any], pixels: np.ndarray, rng: np.random.Generator
    ) -> Found:
        """The stored boxes; an image that was never looked at is an error."""
        height, width = pixels.shape[:2]
        found = self.generation.lookup(record, width, height)
        if found is None:
            name = image_name(record, self.generation.root)
            raise UserError(
                f"{self.generation.folder} knows no image '{name}' of {width} x {height} pixels: "
                "extract the boxes of this data set, or give root= if the images have moved."
            )
        return found.drawn(rng).scaled(width, height)
