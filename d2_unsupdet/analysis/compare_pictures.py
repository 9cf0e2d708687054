"""Answers of several detectors for one image, side by side; some of them may know no classes."""

from collections.abc import Sequence

import numpy as np
from detectron2.structures import Instances

from d2_unsupdet.analysis.detectors import Shown
from d2_unsupdet.analysis.pictures import (
    beside,
    draw_instances,
    draw_predictions,
    titled,
    to_rgb,
)
from d2_unsupdet.analysis.which_boxes import as_objects, surest


def draw_answers(
    truth: dict,
    shown: Sequence[Shown],
    found: Sequence[Instances],
    *,
    threshold: float = 0.3,
    top: int | None = None,
) -> np.ndarray:
    """Ground truth, if there is any, then each detector's boxes.

    Args:
        truth: sample with the image as it is, and its objects.
        shown: detectors.
        found: the answer of each.
        threshold: lowest score that is drawn.
        top: instead so many boxes of each detector, whatever they score.
    """
    real = truth.get("instances")
    if real is not None and real.has("gt_masks") and not any(f.has("pred_masks") for f in found):
        real.remove("gt_masks")  # all panels show what detectors know
    if real is not None and all(one.class_agnostic for one in shown):
        real = as_objects(real)
    # Of the ground truth: of the first detector that has classes.
    names = next((one.names for one in shown if not one.class_agnostic), shown[0].names)
    if len(shown) == 1:
        return draw_predictions(truth["image"], real, found[0], names, threshold, top)
    rgb, panels = to_rgb(truth["image"]), []
    if real is not None:
        panels.append(titled(draw_instances(rgb, real, names), f"ground truth: {len(real)}"))
    for one, instances in zip(shown, found, strict=True):
        kept = surest(instances, threshold, top)
        panels.append(titled(draw_instances(rgb, kept, one.names), f"{one.label}: {len(kept)}"))
    return beside(panels)
