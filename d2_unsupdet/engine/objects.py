"""Whether there is anything to learn from, or to score: objects of a data set that has boxes."""

import logging
from collections.abc import Sequence
from typing import Any

from d2_unsupdet.data.mappers import DetectionMapper
from d2_unsupdet.errors import UserError

logger = logging.getLogger(__name__)
MAPS = ("sem_seg_file_name", "pan_seg_file_name")


def training_objects(dataset: Any, names: str) -> int | None:
    """Objects that are no crowds, in a training set of a detector; None where boxes play no part.

    Args:
        dataset: with `records` and their `mapper`, as of a loader.
        names: what messages call it.
    """
    if not _reads_boxes(dataset):
        return None
    records = dataset.records
    objects, labelled = _count(records)
    if not labelled:
        if any(key in record for record in records for key in MAPS):
            return None
        raise UserError(
            f"Data set '{names}' has images but no labels, and this config trains on labels: give "
            "a labelled one as dataloader.train.dataset.names (a COCO file needs a list "
            "'annotations')."
        )
    if not objects:
        raise UserError(
            f"None of the {len(records):,} images of data set '{names}' holds an object to train "
            "on; check its labels and dataloader.train.dataset.subset."
        )
    return objects


def warn_without_objects(dataset: Any, names: str) -> None:
    """An evaluation set without a single object has no score: said before the first image."""
    if not _reads_boxes(dataset) or any(key in r for r in dataset.records for key in MAPS):
        return
    if not _count(dataset.records)[0]:
        logger.warning(
            "None of the %d images of evaluation set '%s' holds an object: its scores will mean "
            "nothing",
            len(dataset.records),
            names,
        )


def _reads_boxes(dataset: Any) -> bool:
    return isinstance(getattr(dataset, "mapper", None), DetectionMapper)


def _count(records: Sequence[dict]) -> tuple[int, bool]:
    """Objects, and whether any record has labels at all."""
    objects, labelled = 0, False
    for record in records:
        labelled = labelled or "annotations" in record
        objects += sum(not a.get("iscrowd") for a in record.get("annotations", ()))
    return objects, labelled
