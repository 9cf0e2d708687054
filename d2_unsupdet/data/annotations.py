"""Labelled objects as trainers can use them: no crowds, no boxes without area inside the image."""

import logging
from collections.abc import Sequence

import numpy as np
from detectron2.structures import BoxMode


def clean_annotations(annotations: Sequence[dict], width: int, height: int) -> list[dict]:
    """Copies of the usable objects, their boxes as XYXY clipped to the image.

    Crowd regions, boxes of zero (or negative, or undefined) area and boxes outside the image go.
    """
    kept = []
    for annotation in annotations:
        box = _clipped(annotation, width, height)
        if box is not None and not annotation.get("iscrowd", 0):
            kept.append({**annotation, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS})
    return kept


def report_bad_boxes(records: Sequence[dict], name: str) -> int:
    """How many boxes training leaves out, said once for a data set (records need their size)."""
    bad = [
        record["file_name"]
        for record in records
        if record.get("width") and record.get("height")
        for annotation in record.get("annotations", ())
        if _clipped(annotation, record["width"], record["height"]) is None
    ]
    if bad:
        logging.getLogger(__name__).warning(
            "%s: left out %d boxes without area inside their image, the first in %s",
            name,
            len(bad),
            bad[0],
        )
    return len(bad)


def _clipped(annotation: dict, width: int, height: int) -> list[float] | None:
    box = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)
    corners = np.clip(np.asarray(box, dtype=np.float64), 0, (width, height, width, height))
    left, top, right, bottom = corners.tolist()
    return [left, top, right, bottom] if right > left and bottom > top else None
