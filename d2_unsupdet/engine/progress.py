"""Lines about work that takes minutes: how much is done, and when it will be through."""

import logging
import time

logger = logging.getLogger(__name__)
SECONDS = 30.0  # between lines


class Progress:
    """A line now and then: images done by this process, and the seconds that are left.

    Args:
        name: of the work.
        total: images of this process.
    """

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, total, 0
        self.begin = self.said = time.monotonic()

    def step(self) -> None:
        """One image more."""
        self.done += 1
        now = time.monotonic()
        if now - self.said < SECONDS:
            return
        self.said = now
        left = (now - self.begin) * (self.total - self.done) / self.done
        logger.info("%s: %d of %d images, %.0f s left", self.name, self.done, self.total, left)
