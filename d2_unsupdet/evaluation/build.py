"""The evaluator a data set asks for by its metadata's `evaluator_type`."""

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, SemSegEvaluator

from d2_unsupdet.data import catalog
from d2_unsupdet.errors import UserError, nearest
from d2_unsupdet.evaluation.cityscapes import CityscapesInstances, CityscapesSemantics
from d2_unsupdet.evaluation.clustering import ClusteringEvaluator
from d2_unsupdet.evaluation.coco import CocoEvaluator
from d2_unsupdet.evaluation.lvis import LvisEvaluator
from d2_unsupdet.evaluation.voc import VocEvaluator

Tasks = Sequence[str] | None
_BOXES = ("coco", "toy", "lvis", "pascal_voc")


def build_evaluator(
    dataset_name: str,
    output_dir: str | None = None,
    *,
    tasks: Tasks = None,
    distributed: bool = True,
    class_agnostic: bool = False,
) -> DatasetEvaluator:
    """The evaluator of a registered data set; VOC reports its own metric and COCO's, both named.

    With `class_agnostic` every data set of boxes is scored alike, without its classes: what a
    detector that was pretrained without labels finds.
    """
    kind = catalog.metadata(dataset_name).get("evaluator_type", "coco")
    if kind not in _BUILDERS:
        raise UserError(
            f"The data set '{dataset_name}' asks for the unknown evaluator_type '{kind}'."
            f"{nearest(kind, _BUILDERS) or ' Use one of ' + ', '.join(_BUILDERS) + '.'}"
        )
    if class_agnostic:
        return _class_agnostic(dataset_name, output_dir, kind, distributed)
    return _BUILDERS[kind](dataset_name, output_dir, tasks, distributed)


def restrict(evaluator: DatasetEvaluator, image_ids: Iterable[Any]) -> None:
    """Score these images only; evaluators of label maps count what they are given anyway."""
    if isinstance(evaluator, (CocoEvaluator, VocEvaluator, _Together)):
        evaluator.restrict(image_ids)
    elif not isinstance(evaluator, (SemSegEvaluator, ClusteringEvaluator)):
        raise UserError(
            f"{type(evaluator).__name__} scores whole data sets: leave "
            "dataloader.test.dataset.subset and keep_empty out."
        )


class _Together(DatasetEvaluators):
    """Several evaluators that can be told which images to score."""

    def __init__(self, evaluators: Sequence[CocoEvaluator | VocEvaluator]) -> None:
        super().__init__(evaluators)
        self.members = list(evaluators)

    def restrict(self, image_ids: Iterable[Any]) -> None:
        ids = list(image_ids)
        for member in self.members:
            member.restrict(ids)


def _class_agnostic(
    name: str, output_dir: str | None, kind: str, distributed: bool
) -> DatasetEvaluator:
    if kind not in _BOXES:
        raise UserError(
            f"dataloader.evaluator.class_agnostic scores boxes, and '{name}' is scored as {kind}: "
            f"give a data set of {', '.join(_BOXES)}."
        )
    return CocoEvaluator(
        name,
        output_dir=output_dir,
        tasks=("bbox",),
        distributed=distributed,
        class_agnostic=True,
    )


def _coco(name: str, output_dir: str | None, tasks: Tasks, distributed: bool) -> DatasetEvaluator:
    return CocoEvaluator(name, output_dir=output_dir, tasks=tasks, distributed=distributed)


def _lvis(name: str, output_dir: str | None, tasks: Tasks, distributed: bool) -> DatasetEvaluator:
    return LvisEvaluator(name, output_dir=output_dir, tasks=tasks, distributed=distributed)


def _voc(name: str, output_dir: str | None, tasks: Tasks, distributed: bool) -> DatasetEvaluator:
    return _Together(
        [
            VocEvaluator(name, distributed=distributed),
            CocoEvaluator(
                name,
                output_dir=output_dir,
                tasks=("bbox",),
                distributed=distributed,
                suffix="_coco",
            ),
        ]
    )


def _sem_seg(
    name: str, output_dir: str | None, tasks: Tasks, distributed: bool
) -> DatasetEvaluator:
    return SemSegEvaluator(name, distributed=distributed, output_dir=output_dir)


def _clustering(
    name: str, output_dir: str | None, tasks: Tasks, distributed: bool
) -> DatasetEvaluator:
    return ClusteringEvaluator(dataset_name=name, output_dir=output_dir, distributed=distributed)


def _cityscapes(evaluator: type) -> Callable[..., DatasetEvaluator]:
    def build(
        name: str, output_dir: str | None, tasks: Tasks, distributed: bool
    ) -> DatasetEvaluator:
        # Detectron2 imports it only after inference, when an hour of work would be lost.
        if importlib.util.find_spec("cityscapesscripts") is None:
            raise UserError(
                f"Scores on '{name}' need a package that is missing: pip install cityscapesscripts."
            )
        return evaluator(name)

    return build


_BUILDERS: dict[str, Callable[..., DatasetEvaluator]] = {
    "coco": _coco,
    "toy": _coco,
    "lvis": _lvis,
    "pascal_voc": _voc,
    "sem_seg": _sem_seg,
    "clustering": _clustering,
    "cityscapes_instance": _cityscapes(CityscapesInstances),
    "cityscapes_sem_seg": _cityscapes(CityscapesSemantics),
}
