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

OURS = "d2_unsupdet.data."


def check_mapper(mapper: DictConfig, path: str) -> None:
    """Build what draws views and augmentations, innermost first; try augmentations on an image."""
    for key, node in reversed(list(nodes(mapper, path))):
        target = target_of(node)
        if not inspect.isclass(target):
            continue
        augments = issubclass(target, (T.Augmentation, T.Transform))
        if not augments and not target.__module__.startswith(OURS):
            continue
        try:
            part = instantiate(node)
            if augments:
                _try(part)
        except UserError:
            raise
        except Exception as error:  # a part of a user's own raises what it likes
            said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise UserError(
                f"{key} ({', '.join(_values(node))}) is no {target.__name__} that works: {said}."
            ) from error


def _try(augmentation: T.Augmentation | T.Transform) -> None:
    """On a picture with an object and a label map; nobody's random numbers are taken."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    given = T.AugInput(pixels, boxes=np.array([[8.0, 8, 40, 40]]), sem_seg=pixels[..., 0])
    with seeded("try"):
        T.AugmentationList([augmentation])(given)


def _values(node: DictConfig) -> Iterator[str]:
    for name, value in to_plain(node).items():
        if name != "_target_":
            yield f"{name}={_short(value)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
