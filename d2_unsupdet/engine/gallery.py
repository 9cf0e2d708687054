"""Where the pictures of a run go: its folder, for the report, and whatever shows them meanwhile."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from detectron2.utils.events import EventStorage, EventWriter, TensorboardXWriter

from d2_unsupdet.analysis.pictures import drop_pictures, fitted, save_picture

LARGEST = 1024  # pixels of a side in TensorBoard, whose file keeps every picture of every step


@dataclass(frozen=True)
class Drawn:
    """A picture and what is said of it.

    Args:
        name: of the image, the same in every run.
        image: RGB.
        caption: what it shows; when is added.
        value: what the group is sorted by.
        alt: for who cannot see it.
    """

    name: str
    image: np.ndarray
    caption: str
    value: float | None = None
    alt: str | None = None


class _Shows(Protocol):
    def put_image(self, name: str, image: np.ndarray) -> None: ...


class Gallery:
    """Keeps pictures in a run's folder and hands them to its writers.

    Args:
        run_dir: the run folder.
        writers: TensorBoard's takes pictures from the event storage and empties it; any other with
            a `put_image` is handed them.
    """

    def __init__(self, run_dir: Path, writers: Sequence[EventWriter] = ()) -> None:
        self.run_dir = run_dir
        # Without TensorBoard nobody would take them out of the storage.
        self.stored = any(isinstance(writer, TensorboardXWriter) for writer in writers)
        self.others: list[_Shows] = [w for w in writers if hasattr(w, "put_image")]

    def add(self, group: str, drawn: Drawn, *, iteration: int, storage: EventStorage) -> None:
        """Keep and show a picture; `iteration` is the number of steps done."""
        save_picture(
            self.run_dir,
            group,
            drawn.image,
            drawn.caption + (f", after {iteration} steps" if iteration else ""),
            value=drawn.value,
            iteration=iteration,
            name=drawn.name,
            alt=drawn.alt,
        )
        if not (self.stored or self.others):
            return
        title, (image, _) = f"{group}/{drawn.name}", fitted(drawn.image, 1, LARGEST)
        if self.stored:
            storage.put_image(title, np.ascontiguousarray(image.transpose(2, 0, 1)))
        for writer in self.others:
            writer.put_image(title, image)

    def keep_only(self, group: str, iterations: Collection[int]) -> None:
        """Of a group that is drawn again and again: the pictures of these iterations."""
        drop_pictures(
            self.run_dir,
            lambda entry: entry.get("group") == group and entry.get("iteration") not in iterations,
        )

    def cut(self, start: int) -> None:
        """Drop what belongs to steps that will be run again."""
        drop_pictures(self.run_dir, lambda entry: (entry.get("iteration") or 0) > start)
