"""The order of samples as a function of the step: `plan[step]` is the batch, nothing is stored.

The stream is one permutation of the data set after another; no image is dropped and none is padded
in, so an epoch may end inside a batch. Resuming means asking for another step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from d2_unsupdet.seeding import generator

# Aspect groups are formed inside windows of this many batches: at most one batch a window mixes
# portrait and landscape, and an image never moves further than a window from its place.
WINDOW = 32


@dataclass(frozen=True)
class Position:
    """Where a sample stands: which pass over the data, which image, and which time in that pass."""

    epoch: int
    index: int
    copy: int = 0


class BatchPlan:
    """Which images each optimizer step sees.

    >>> plan = BatchPlan(seed=0, size=1000, batch=16)
    >>> [p.index for p in plan[5]]            # the same list in every process, at every resume

    Args:
        seed: the run's seed.
        size: images in the data set.
        batch: images an optimizer step sees, over all ranks and micro-batches.
        landscape: for each image whether it is wider than high; given, batches hold one kind.
        weights: for each image how often it is drawn compared with the others; an epoch keeps its
            length, so an image may be missing from one and stand in another twice.
    """

    def __init__(
        self,
        *,
        seed: int,
        size: int,
        batch: int,
        landscape: Sequence[bool] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        if size < 1 or batch < 1:
            raise ValueError(f"a plan needs images and a batch: got size {size}, batch {batch}")
        self.seed, self.size, self.batch = seed, size, batch
        self._landscape = None if landscape is None else np.asarray(landscape, dtype=bool)
        self._weights = None if weights is None else np.asarray(weights, dtype=np.float64)
        # Per-instance caches: an epoch's permutation is drawn once, not once a sample.
        self._permutation = lru_cache(maxsize=4)(self._draw_permutation)
        self._window = lru_cache(maxsize=2)(self._group_window)

    def _draw_permutation(self, epoch: int) -> np.ndarray:  # (size, 2): image and copy
        rng = generator(self.seed, "epoch", epoch)
        order = rng.permutation(self.size)
        if self._weights is None:
            return np.stack([order, np.zeros_like(order)], axis=1)
        # Even steps along the images, each as long as its share of the epoch: it is hit as often
        # as that share, rounded down or up, and by no more chance than that.
        ends = np.cumsum(self._weights[order])
        steps = (np.arange(self.size) + rng.random()) * (ends[-1] / self.size)
        places = np.searchsorted(ends[:-1], steps, side="right")
        copies = np.arange(self.size) - np.searchsorted(places, places)
        return rng.permutation(np.stack([order[places], copies], axis=1))

    def _stream(self, start: int, count: int) -> list[Position]:
        places = (divmod(p, self.size) for p in range(start, start + count))
        return [Position(epoch, *map(int, self._permutation(epoch)[i])) for epoch, i in places]

    def _group_window(self, window: int) -> list[list[Position]]:
        assert self._landscape is not None
        stream = self._stream(window * WINDOW * self.batch, WINDOW * self.batch)
        wide = [p for p in stream if self._landscape[p.index]]
        tall = [p for p in stream if not self._landscape[p.index]]
        ordered = wide + tall
        batches = [ordered[i : i + self.batch] for i in range(0, len(ordered), self.batch)]
        order = generator(self.seed, "window", window).permutation(WINDOW)
        return [batches[i] for i in order]

    def __getitem__(self, step: int) -> list[Position]:
        if self._landscape is None:
            return self._stream(step * self.batch, self.batch)
        window, place = divmod(step, WINDOW)
        return self._window(window)[place]

    def share(self, step: int, *, rank: int, world: int) -> list[Position]:
        """The contiguous slice of `plan[step]` that one of `world` ranks loads."""
        each, rest = divmod(self.batch, world)
        if rest:
            raise ValueError(f"a batch of {self.batch} cannot be shared by {world} processes")
        return self[step][rank * each : (rank + 1) * each]

    def __getstate__(self) -> dict:
        # Caches do not travel to spawned workers.
        return {k: v for k, v in self.__dict__.items() if k not in ("_permutation", "_window")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._permutation = lru_cache(maxsize=4)(self._draw_permutation)
        self._window = lru_cache(maxsize=2)(self._group_window)
