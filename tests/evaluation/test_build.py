"""The evaluator follows the data set's metadata; a missing package is said before inference."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluators, SemSegEvaluator

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
