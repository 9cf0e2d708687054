"""Work of the processor beside that of the network, image by image and in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
THREADS = 2  # one builds a graph while the other solves: ARPACK is one at a time in a process


def in_threads(
    jobs: Iterable[tuple[Item, Callable[[], Result]]],
) -> Iterator[tuple[Item, Result]]:
    """Each item with its function's result, in the order given; a few functions run ahead.

    The jobs themselves come from the calling thread, so that is where a network runs.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for item, function in jobs:
            waiting.append((item, pool.submit(function)))
            if len(waiting) > THREADS:
                first, result = waiting.popleft()
                yield first, result.result()
        for first, result in waiting:
            yield first, result.result()
