"""Box and mask AP by the COCO protocol, for COCO files and for every other detection data set.

Same interface and result names as Detectron2's COCOEvaluator, which needs its compiled operators
for speed and cannot score a data set without a JSON file in memory.
"""

import json
import logging
import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm

from d2_unsupdet.checkpoint.files import atomic_write
from d2_unsupdet.data import catalog
from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation.backend import Curves, choose_backend, score
from d2_unsupdet.evaluation.ground_truth import GroundTruth, from_json, from_records

Detection = dict[str, Any]
logger = logging.getLogger(__name__)


class CocoEvaluator(DatasetEvaluator):
    """COCO AP of the predictions on one registered data set, times 100.

    Example::

        evaluator = CocoEvaluator("coco_2017_val", output_dir="run/inference")
        results = inference_on_dataset(model, loader, evaluator)
        results["bbox"]["AP50"]

    Args:
        dataset_name: a name in the catalog; its `json_file` is read when it has one, its records
            otherwise (there "difficult" objects count like all others).
        output_dir: gets `coco_instances_results.json`; nothing is written without it.
        tasks: subset of ("bbox", "segm"); what the predictions hold when not given.
        distributed: gather the predictions of all ranks; otherwise each rank scores its own.
        class_agnostic: ignore categories, and report AR by size too.
        max_detections: how many of an image and class count.
        backend: "faster-coco-eval" or "pycocotools"; the faster one that is installed by default.
        suffix: appended to the task in the results; "_agnostic" by default for `class_agnostic`,
            so that nobody takes one number for the other.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        output_dir: str | None = None,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        class_agnostic: bool = False,
        max_detections: int = 100,
        backend: str | None = None,
        suffix: str | None = None,
    ) -> None:
        unknown = set(tasks or ()) - {"bbox", "segm"}
        if unknown:
            raise UserError(f"Unknown COCO task '{min(unknown)}': use 'bbox' or 'segm'.")
        self.dataset_name = dataset_name
        self.output_dir = output_dir
        self.tasks = tuple(tasks) if tasks else None
        self.distributed = distributed
        self.class_agnostic = class_agnostic
        self.limits = sorted({1, 10, max_detections})
        self.backend = choose_backend(backend)
        self.suffix = ("_agnostic" if class_agnostic else "") if suffix is None else suffix
        self._truth: GroundTruth | None = None
        self.reset()

    @property
    def truth(self) -> GroundTruth:
        """The data set's ground truth, read at its first use."""
        if self._truth is None:
            self._truth = ground_truth(self.dataset_name)
        return self._truth

    def restrict(self, image_ids: Iterable[Any]) -> None:
        """Score these images only, as if the data set had no others."""
        known = self.truth.image_ids
        self._truth = self.truth.only([image for image in image_ids if image in known])

    def reset(self) -> None:
        """Forget all predictions."""
        self._predictions: dict[Any, list[Detection]] = {}
        self._gives_masks = False  # a model may give masks and find nothing

    def process(self, inputs: Iterable[dict[str, Any]], outputs: Iterable[dict[str, Any]]) -> None:
        """Keep the predictions of a batch; the inputs name their images."""
        for record, output in zip(inputs, outputs, strict=True):
            found: list[Detection] = []
            if "instances" in output:
                instances = output["instances"].to("cpu")
                self._gives_masks |= instances.has("pred_masks")
                found = instances_to_coco_json(instances, record["image_id"])
            self._predictions[record["image_id"]] = found

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Scores of everything processed since `reset`; empty on every rank but the first."""
        parts = [(self._predictions, self._gives_masks)]
        if self.distributed and comm.get_world_size() > 1:
            comm.synchronize()
            parts = comm.gather(parts[0], dst=0)
            if not comm.is_main_process():
                return {}
        # A sampler that pads its last batch gives an image to two ranks: it counts once.
        predictions = {image: found for part, _ in parts for image, found in part.items()}
        gives_masks = any(masks for _, masks in parts)
        detections = self._translate(predictions)
        self._write(detections)
        own = [{**d, "image_id": self.truth.image_ids[d["image_id"]]} for d in detections]
        results: dict[str, dict[str, float]] = OrderedDict()
        for task in self._scored_tasks(gives_masks):
            results[task + self.suffix] = self._summary(self._curves(own, task))
            self._log(task, results[task + self.suffix])
        return results

    def _curves(self, detections: list[Detection], task: str) -> Curves:
        return score(
            self.truth,
            detections,
            task,
            limits=self.limits,
            class_agnostic=self.class_agnostic,
            backend=self.backend,
        )

    def _translate(self, predictions: dict[Any, list[Detection]]) -> list[Detection]:
        """All detections with the data set's category ids; says what is missing or dropped."""
        truth = self.truth
        missing = [i for i in truth.image_ids if i not in predictions]
        if missing:
            logger.warning(
                "%d of %d images of %s have no predictions (the first is %r); their objects count "
                "as missed.",
                len(missing),
                len(truth.image_ids),
                self.dataset_name,
                missing[0],
            )
        known = [d for i, found in predictions.items() if i in truth.image_ids for d in found]
        foreign = sum(i not in truth.image_ids for i in predictions)
        finite = [d for d in known if math.isfinite(sum(d["bbox"]) + d["score"])]
        classes = len(truth.category_ids)
        kept = [d for d in finite if self.class_agnostic or d["category_id"] < classes]
        for count, what in (
            (foreign, f"predicted images are not in {self.dataset_name}"),
            (len(known) - len(finite), "detections have a box or score that is not finite"),
            (len(finite) - len(kept), f"detections have a class above the data set's {classes}"),
        ):
            if count:
                logger.warning("%d %s and were left out.", count, what)
        if not kept:
            logger.warning("There is no detection to score on %s: AP is 0.", self.dataset_name)
        last = classes - 1  # a class-agnostic model may predict any index
        return [{**d, "category_id": truth.category_ids[min(d["category_id"], last)]} for d in kept]

    def _write(self, detections: list[Detection]) -> None:
        if self.output_dir is None:
            return
        folder = Path(self.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(detections).encode()
        atomic_write(folder / "coco_instances_results.json", lambda file: file.write(text))

    def _scored_tasks(self, gives_masks: bool) -> list[str]:
        tasks = list(self.tasks or ["bbox"])
        if self.tasks is None and gives_masks:
            tasks.append("segm")
        if "segm" in tasks and not (self.truth.has_masks and gives_masks):
            who = "predictions" if self.truth.has_masks else f"annotations of {self.dataset_name}"
            logger.warning("The %s hold no masks, so there is no mask AP.", who)
            tasks.remove("segm")
        return tasks

    def _summary(self, curves: Curves) -> dict[str, float]:
        recalls = {f"AR@{n}": curves.average_recall(limit=n) for n in self.limits}
        scores = average_precisions(curves) | recalls
        if self.class_agnostic:
            areas = ("small", "medium", "large")
            top = self.limits[-1]
            by_area = {f"AR{a[0]}@{top}": curves.average_recall(limit=top, area=a) for a in areas}
            return scores | by_area
        names = self.truth.class_names
        if len(names) > 1:
            per_class = (curves.average_precision(category=i) for i in range(len(names)))
            scores |= {f"AP-{name}": ap for name, ap in zip(names, per_class, strict=True)}
        return scores

    def _log(self, task: str, scores: dict[str, float]) -> None:
        text = ", ".join(f"{k} {v:.2f}" for k, v in scores.items() if "-" not in k)
        logger.info("%s%s on %s: %s", task, self.suffix, self.dataset_name, text)
        per_class = {k[3:]: v for k, v in scores.items() if k.startswith("AP-")}
        if 0 < len(per_class) <= 100:
            logger.info("AP by class: %s", ", ".join(f"{k} {v:.1f}" for k, v in per_class.items()))


def average_precisions(curves: Curves) -> dict[str, float]:
    """AP over all classes, at two thresholds and of three sizes."""
    return {
        "AP": curves.average_precision(),
        "AP50": curves.average_precision(iou=0.5),
        "AP75": curves.average_precision(iou=0.75),
        "APs": curves.average_precision(area="small"),
        "APm": curves.average_precision(area="medium"),
        "APl": curves.average_precision(area="large"),
    }


def ground_truth(dataset_name: str) -> GroundTruth:
    """Ground truth of a registered data set: from its JSON file, or from its records."""
    metadata = catalog.metadata(dataset_name)
    if metadata.get("json_file"):
        contiguous = metadata.get("thing_dataset_id_to_contiguous_id")
        return from_json(metadata.json_file, contiguous)
    records = catalog.get_dataset(dataset_name)  # also fills the metadata of lazy data sets
    classes = metadata.get("thing_classes")
    if not classes:
        raise UserError(f"The data set '{dataset_name}' names no classes, so it gives no scores.")
    contiguous = metadata.get("thing_dataset_id_to_contiguous_id")
    return from_records(records, classes, contiguous)
