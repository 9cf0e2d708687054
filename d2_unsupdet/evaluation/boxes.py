"""Scores of a box source alone: how good boxes are that nobody drew, before a detector learns them.

The same numbers as of a pretrained detector without finetuning (AP and AR without classes), so that
the two can stand in one table.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from tqdm import tqdm

from d2_unsupdet.data import catalog
from d2_unsupdet.data.images import read_image
from d2_unsupdet.data.loader import build_test_loader
from d2_unsupdet.data.subsets import SubsetSpec
from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation.coco import CocoEvaluator
from d2_unsupdet.seeding import derive_seed

if TYPE_CHECKING:
    from d2_unsupdet.priors.found import BoxSource


class FindBoxes:
    """A mapper that asks a box source; what is random follows from seed and image.

    Args:
        source: to ask.
        limit: how many of an image's boxes are kept, best first.
        by_rank: 1, 1/2, 1/3, ... as scores, as papers score selective search; else the source's.
        seed: of the source's chance.
    """

    def __init__(
        self, source: "BoxSource", *, limit: int = 100, by_rank: bool = True, seed: int = 0
    ) -> None:
        self.source, self.limit, self.by_rank, self.seed = source, limit, by_rank, seed

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        pixels = read_image(record["file_name"])
        rng = np.random.default_rng(derive_seed("boxes", self.seed, str(record["image_id"])))
        found = self.source(record, pixels, rng).drawn(rng)
        boxes = torch.from_numpy(np.asarray(found.boxes, np.float32)[: self.limit])
        ranks = 1 / torch.arange(1, len(boxes) + 1)
        scores = ranks if self.by_rank else torch.from_numpy(found.scores[: self.limit])
        instances = Instances(
            pixels.shape[:2],
            pred_boxes=Boxes(boxes),
            scores=scores,
            pred_classes=torch.zeros(len(boxes), dtype=torch.int64),
        )
        return {"image_id": record["image_id"], "instances": instances}


def score_source(
    source: "BoxSource",
    dataset_name: str,
    *,
    subset: SubsetSpec = None,
    limit: int = 100,
    by_rank: bool = True,
    seed: int = 0,
    workers: int = 0,
    output_dir: str | None = None,
) -> dict[str, float]:
    """AP, AP50, AP75, AR@1, AR@10 and AR@100 of a source on a labelled data set.

    >>> score_source(RandomBoxes(count=100), "coco_2017_val")["AR@100"]

    Args:
        source: anything that answers as a box source does.
        dataset_name: a registered name.
        subset: score some of the images only, see `subsets.parse`.
        limit: boxes an image, at most.
        by_rank: see `FindBoxes`.
        seed: see `FindBoxes`.
        workers: processes that look for boxes.
        output_dir: gets the boxes as COCO results.
    """
    records = catalog.get_dataset(dataset_name, subset=subset)
    if not any("annotations" in record for record in records):
        raise UserError(f"The data set '{dataset_name}' has no boxes to compare with.")
    check = getattr(source, "check", None)  # of sources that know some images only
    if check is not None:
        check(records)
    evaluator = CocoEvaluator(
        dataset_name,
        output_dir=output_dir,
        tasks=("bbox",),
        distributed=False,
        class_agnostic=True,
        max_detections=limit,
    )
    if subset is not None:
        evaluator.restrict([record["image_id"] for record in records])
    mapper = FindBoxes(source, limit=limit, by_rank=by_rank, seed=seed)
    loader = build_test_loader(dataset=records, mapper=mapper, num_workers=workers)
    for batch in tqdm(loader, desc="boxes", unit="image", disable=None):
        evaluator.process(batch, batch)
    return evaluator.evaluate()["bbox_agnostic"]


def table(results: Mapping[str, Mapping[str, float]], columns: Sequence[str]) -> str:
    """Rows of sources or detectors, per cent."""
    width = max(8, *map(len, results)) + 2
    lines = [" " * width + "".join(f"{name:>9}" for name in columns)]
    for label, scores in results.items():
        cells = "".join(f"{scores.get(name, float('nan')):9.1f}" for name in columns)
        lines.append(f"{label:{width}}{cells}")
    return "\n".join(lines)
