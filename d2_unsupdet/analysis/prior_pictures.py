"""Boxes that nobody drew, over an image: of a source, or of a store's generations in a row."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from d2_unsupdet.analysis.pictures import beside, draw_instances, fitted, titled, to_rgb
from d2_unsupdet.priors.found import Found

KINDS = ("region", "instance", "given")  # as stores number them


def draw_priors(
    image: "np.ndarray | torch.Tensor", found: Found | None, title: str, *, limit: int = 10
) -> np.ndarray:
    """The best boxes, in pixels of the image; colours by kind where the source tells kinds."""
    rgb = to_rgb(image)
    if found is None:
        return titled(fitted(rgb, 320, 480)[0], f"{title}: image not in it")
    kinds = np.zeros(len(found), np.int64) if found.kinds is None else found.kinds.astype(np.int64)
    shown = Instances(
        rgb.shape[:2],
        pred_boxes=Boxes(torch.from_numpy(np.asarray(found.boxes, np.float32)[:limit])),
        pred_classes=torch.from_numpy(kinds[:limit]),
    )
    names = [""] if found.kinds is None else KINDS
    count = f"{limit} of {len(found)} boxes" if len(found) > limit else _boxes(len(found))
    drawn = draw_instances(fitted(rgb, 320, 480)[0], shown, names)
    return titled(drawn, f"{title}: {count}")


def draw_generations(
    image: "np.ndarray | torch.Tensor",
    generations: Mapping[int, Found | None],
    *,
    limit: int = 10,
    before: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """The same image under the boxes of each generation, `before` them other panels."""
    panels = [
        draw_priors(image, found, f"generation {number}", limit=limit)
        for number, found in generations.items()
    ]
    return beside([*before, *panels])


def draw_sample(sample: Mapping[str, Any], *, limit: int = 10) -> np.ndarray:
    """What a box pretext trains on: its boxes in the augmented image, or in both views.

    In two views the same colour is the same region, and the first is what both show.
    """
    images = sample["views"] if "views" in sample else sample["image"][None]
    boxes = sample["priors"] if "views" in sample else sample["priors"][None]
    panels = []
    for number, (image, own) in enumerate(zip(images, boxes, strict=True)):
        rgb = to_rgb(image)
        colors = torch.arange(min(limit, len(own))) if len(images) > 1 else torch.zeros(limit)
        shown = Instances(
            rgb.shape[:2],
            pred_boxes=Boxes(own[:limit].float()),
            pred_classes=colors[: len(own)].long(),
        )
        title = f"view {number + 1}" if len(images) > 1 else f"{_boxes(len(own))} to find"
        panels.append(titled(draw_instances(rgb, shown, [""] * limit), title))
    return beside(panels)


def evenly(numbers: Sequence[int], limit: int) -> list[int]:
    """At most `limit` of them, the first and the last included."""
    if len(numbers) <= limit:
        return list(numbers)
    places = np.linspace(0, len(numbers) - 1, limit).round().astype(int)
    return [numbers[i] for i in places]


def _boxes(count: int) -> str:
    return f"{count} box{'es' * (count != 1)}"
