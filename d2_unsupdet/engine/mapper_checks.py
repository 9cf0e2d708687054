"""Augmentations and views that cannot be built or fail on an image, said before the first step."""

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
from detectron2.config import instantiate
from detectron2.data import transforms as T
from omegaconf import DictConfig

from d2_unsupdet.engine.config import nodes, target_of, to_plain
from d2_unsupdet.errors import UserError
from d2_unsupdet.seeding import seeded

KNOWN = ("d2_unsupdet.data.", "detectron2.data.transforms.")


def check_mapper(mapper: DictConfig, path: str) -> None:
    """Build what draws views and augmentations, innermost first; try those known to work anywhere.

    An augmentation of the user's own may want more than pixels, so it is built only; a transform,
    which is of images of one size, is left alone.
    """
    for key, node in reversed(list(nodes(mapper, path))):
        target = target_of(node)
        if not inspect.isclass(target):
            continue
        augments = issubclass(target, T.Augmentation)
        if not augments and not _is_known(target):
            continue
        try:
            part = instantiate(node)
            if augments and all(_is_known(target_of(inner)) for _, inner in nodes(node)):
                _try(part)
        except UserError:
            raise
        except Exception as error:  # a part of a user's own raises what it likes
            said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise UserError(
                f"{key} ({', '.join(_values(node))}) is no {target.__name__} that works: {said}."
            ) from error


def _is_known(target: Any) -> bool:
    known = inspect.isclass(target) and target.__module__.startswith(KNOWN)
    return known and not issubclass(target, T.Transform)


def _try(augmentation: T.Augmentation) -> None:
    """On a picture with an object and a label map; nobody's random numbers are taken."""
    with seeded("try"):
        pixels = np.random.randint(0, 256, (480, 640, 3), np.uint8)
        boxes, labels = np.array([[80.0, 80, 400, 400]]), pixels[..., 0] % 2
        T.AugmentationList([augmentation])(T.AugInput(pixels, boxes=boxes, sem_seg=labels))


def _values(node: DictConfig) -> Iterator[str]:
    for name, value in to_plain(node).items():
        if name != "_target_":
            yield f"{name}={_short(value)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
