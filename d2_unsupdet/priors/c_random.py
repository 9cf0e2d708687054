"""The C library's `rand()`, which decides the order of OpenCV's selective search, and its seed.

`cv2.setRNGSeed` does not reach it. Whether `srand` does is tried, not guessed: a wheel can bring a
C library of its own (as on Windows), and then there is nothing to seed.
"""

import ctypes
from functools import cache
from typing import Any

import cv2
import numpy as np

from d2_unsupdet.errors import UserError


def require_contrib() -> None:
    """Raise the error that says which OpenCV has the proposal methods."""
    if not hasattr(cv2, "ximgproc"):
        raise UserError(
            f"OpenCV {cv2.__version__} is here without its contrib modules, which hold selective "
            "search and edge boxes: `pip uninstall opencv-python opencv-python-headless`, then "
            "`pip install --force-reinstall opencv-contrib-python-headless`."
        )


def seed_c_library(seed: int) -> bool:
    """Call `srand`; False where there is none to call."""
    try:
        ctypes.CDLL(None).srand(ctypes.c_uint(seed % 2**32))
    except (OSError, AttributeError, TypeError):  # TypeError: Windows has no library named None
        return False
    return True


@cache
def seed_reaches_opencv() -> bool:
    """Whether the same seed gives the same order, and others give others; tried once a process."""
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(cv2.resize(image, (48, 48), interpolation=cv2.INTER_NEAREST))
    search.switchToSelectiveSearchFast()

    def order(seed: int) -> Any:
        return np.asarray(search.process()).tolist() if seed_c_library(seed) else None

    first = order(1)
    return first is not None and order(1) == first and any(order(s) != first for s in (2, 3, 4))
