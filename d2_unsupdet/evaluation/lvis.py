"""LVIS v1's AP: as COCO's, with 300 detections an image and only classes that were looked for.

A detection counts if its class was searched for on its image, found or not; where a class was found
but not every object of it outlined, one that hits nothing is no mistake. The scores of rare, common
and frequent classes (1-10, 11-100, more training images) are reported apart.
"""

from collections import defaultdict
from collections.abc import Sequence

from d2_unsupdet.evaluation.backend import Curves, score
from d2_unsupdet.evaluation.coco import CocoEvaluator, Detection, average_precisions

MAX_DETECTIONS = 300
GROUPS = {"APr": "r", "APc": "c", "APf": "f"}


class LvisEvaluator(CocoEvaluator):
    """LVIS AP of the predictions on one registered data set, times 100.

    >>> LvisEvaluator("lvis_v1_val").evaluate()["bbox"]["APr"]

    Args:
        dataset_name: a name whose JSON has LVIS's lists of searched classes.
        output_dir: gets `coco_instances_results.json`, the form that LVIS takes too.
        tasks: subset of ("bbox", "segm"); what the predictions hold when not given.
        distributed: gather the predictions of all ranks.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        output_dir: str | None = None,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
    ) -> None:
        super().__init__(
            dataset_name,
            output_dir=output_dir,
            tasks=tasks,
            distributed=distributed,
            backend="faster-coco-eval",  # pycocotools knows no classes that were not searched for
        )
        self.limits = [MAX_DETECTIONS]

    def _curves(self, detections: list[Detection], task: str) -> Curves:
        kept = best_of_each_image(detections, MAX_DETECTIONS)
        return score(
            self.truth, kept, task, limits=self.limits, federated=True, backend=self.backend
        )

    def _summary(self, curves: Curves) -> dict[str, float]:
        frequency = {c["id"]: c.get("frequency") for c in self.truth.dataset["categories"]}
        ids = self.truth.category_ids
        scores = average_precisions(curves)
        for name, group in GROUPS.items():
            members = [i for i, category in enumerate(ids) if frequency[category] == group]
            scores[name] = curves.average_precision(category=members)
        return scores


def best_of_each_image(detections: Sequence[Detection], limit: int) -> list[Detection]:
    """The `limit` highest scores of each image, over all classes together."""
    by_image: dict[int, list[Detection]] = defaultdict(list)
    for detection in detections:
        by_image[detection["image_id"]].append(detection)
    ranked = (sorted(found, key=lambda d: -d["score"])[:limit] for found in by_image.values())
    return [detection for found in ranked for detection in found]
