"""Run lengths in iterations, epochs or images, and the learning rate as a function of progress."""

import math
import re
from collections.abc import Callable

from d2_unsupdet.errors import UserError

Length = int | str
Multiplier = Callable[[float], float]  # progress in [0, 1] -> factor on the base learning rate

_PATTERN = re.compile(r"\s*((?:\d+\.?\d*|\.\d+)(?:e\+?\d+)?)\s*(epochs?|images?|iterations?)?\s*")


def to_iterations(length: Length, *, size: int, batch: int, key: str = "train.max_iter") -> int:
    """`90000`, `"200 epochs"` or `"1e6 images"` in optimizer steps, at least one.

    Args:
        length: a number of steps, or a number and its unit.
        size: images in the training set.
        batch: images an optimizer step sees.
        key: the config key, for the error message.
    """
    match = None if isinstance(length, bool) else _PATTERN.fullmatch(str(length))
    if match is None or not 0 < float(match[1]) < math.inf:
        raise UserError(
            f"{key}={length!r} is no length; write 90000, '200 epochs' or '1000000 images'."
        )
    count, unit = float(match[1]), (match[2] or "iterations").rstrip("s")
    images = {"epoch": count * size, "image": count}.get(unit)
    steps = count if images is None else images / batch
    return max(1, round(steps))


def describe(multiplier: Multiplier, max_iter: int) -> str:
    """Where the rate peaks and drops, e.g. `"warm-up 100, drops at 18000, 22000"`."""
    # A thousand probes find warm-up and steps to 0.1 % of the run; only drops of 40 % count, so
    # that a cosine reads as smooth.
    values = [multiplier(probe / 1000 * (1 - 1e-9)) for probe in range(1001)]
    peak = values.index(max(values))
    drops = [i for i in range(peak + 1, 1001) if values[i] < 0.6 * values[i - 1] and i < 995]
    parts = [f"warm-up {round(peak / 1000 * max_iter)}"] if peak else []
    if drops:
        parts.append("drops at " + ", ".join(str(round(i / 1000 * max_iter)) for i in drops))
    elif values[-1] < 0.1 * max(values):
        parts.append("falls smoothly to the end")
    return ", ".join(parts) or "constant"
