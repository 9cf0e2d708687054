"""The evaluator follows the data set's metadata; a missing package is said before inference."""

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    DatasetEvaluators,
    SemSegEvaluator,
)
from detectron2.structures import Boxes, BoxMode, Instances

from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation import CocoEvaluator, VocEvaluator, build_evaluator
from d2_unsupdet.evaluation import build as build_module


def named(kind):
    name = f"build_test_{kind}"
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(evaluator_type=kind)
    return name


def test_detection_sets_get_coco_scores(tmp_path):
    for kind in ("coco", "toy"):
        evaluator = build_evaluator(named(kind), str(tmp_path), tasks=("bbox",))
        assert isinstance(evaluator, CocoEvaluator)
        assert evaluator.tasks == ("bbox",) and evaluator.output_dir == str(tmp_path)


def test_voc_gets_both_metrics_under_two_names():
    evaluator = build_evaluator(named("pascal_voc"))
    assert isinstance(evaluator, DatasetEvaluators)
    voc, coco = evaluator._evaluators
    assert isinstance(voc, VocEvaluator) and coco.suffix == "_coco"


def test_a_part_of_a_data_set_is_scored_as_if_there_were_no_other_images(caplog):
    """Both metrics of VOC: half the images answered rightly are all of them."""
    name = "build_test_part"
    box = {"bbox": [10.0, 10.0, 40.0, 40.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    records = [{"image_id": i, "height": 50, "width": 50, "annotations": [box]} for i in range(4)]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(evaluator_type="pascal_voc", thing_classes=["cat"], year=2007)
    found = Instances((50, 50))
    found.pred_boxes = Boxes(torch.tensor([box["bbox"]]))
    found.scores, found.pred_classes = torch.ones(1), torch.zeros(1, dtype=torch.int64)

    def scores(part):
        evaluator = build_evaluator(name, distributed=False)
        evaluator.reset()
        if part:
            build_module.restrict(evaluator, [1, 3])
        for i in (1, 3):
            evaluator.process([records[i]], [{"instances": found}])
        return {task: values["AP50"] for task, values in evaluator.evaluate().items()}

    whole = scores(part=False)
    assert max(whole.values()) < 60 and "2 of 4 images" in caplog.text
    caplog.clear()
    assert scores(part=True) == pytest.approx({"bbox": 100.0, "bbox_coco": 100.0})
    assert "no predictions" not in caplog.text


def test_an_evaluator_of_whole_data_sets_refuses_a_part():
    evaluator = object.__new__(CityscapesInstanceEvaluator)
    with pytest.raises(UserError, match="CityscapesInstanceEvaluator scores whole data sets"):
        build_module.restrict(evaluator, [1])


def test_semantic_sets_get_detectron2s_evaluator():
    name = named("sem_seg")
    MetadataCatalog.get(name).set(stuff_classes=["road", "sky"], ignore_label=255)
    assert isinstance(build_evaluator(name, distributed=False), SemSegEvaluator)


def test_cityscapes_without_its_package_is_a_sentence(monkeypatch):
    monkeypatch.setattr(build_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install cityscapesscripts"):
        build_evaluator(named("cityscapes_instance"))


def test_unknown_type_names_the_nearest():
    with pytest.raises(UserError, match="'pascal_voc'"):
        build_evaluator(named("pascalvoc"))


@pytest.mark.parametrize("kind", ["coco", "toy", "lvis", "pascal_voc"])
def test_every_set_of_boxes_is_scored_without_its_classes(kind, tmp_path):
    evaluator = build_evaluator(named(kind), str(tmp_path), class_agnostic=True)
    assert isinstance(evaluator, CocoEvaluator) and evaluator.class_agnostic
    assert evaluator.suffix == "_agnostic" and evaluator.limits == [1, 10, 100]


def test_what_has_no_boxes_has_no_scores_without_classes():
    with pytest.raises(UserError, match="scored as sem_seg"):
        build_evaluator(named("sem_seg"), class_agnostic=True)
