"""Scores of a model on a data set, in Detectron2's evaluator interface."""

from d2_unsupdet.availability import require_detectron2

require_detectron2()

from detectron2.evaluation import inference_on_dataset

from d2_unsupdet.evaluation.build import build_evaluator
from d2_unsupdet.evaluation.clustering import ClusteringEvaluator
from d2_unsupdet.evaluation.coco import CocoEvaluator
from d2_unsupdet.evaluation.lvis import LvisEvaluator
from d2_unsupdet.evaluation.voc import VocEvaluator

__all__ = [
    "ClusteringEvaluator",
    "CocoEvaluator",
    "LvisEvaluator",
    "VocEvaluator",
    "build_evaluator",
    "inference_on_dataset",
]
