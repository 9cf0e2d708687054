"""What frozen features know: linear classifiers, SVMs and nearest neighbours on labelled images."""

from d2_unsupdet.evaluation.probes.data import ProbeSet, read_probe_set, refuse_overlap
from d2_unsupdet.evaluation.probes.features import STAGES, extract
from d2_unsupdet.evaluation.probes.knn import knn_scores
from d2_unsupdet.evaluation.probes.linear import (
    LARS_PROTOCOL,
    PLACES_PROTOCOL,
    SGD_PROTOCOL,
    linear_scores,
)
from d2_unsupdet.evaluation.probes.metrics import average_precision, summarise
from d2_unsupdet.evaluation.probes.svm import svm_scores

__all__ = [
    "LARS_PROTOCOL",
    "PLACES_PROTOCOL",
    "SGD_PROTOCOL",
    "STAGES",
    "ProbeSet",
    "average_precision",
    "extract",
    "knn_scores",
    "linear_scores",
    "read_probe_set",
    "refuse_overlap",
    "summarise",
    "svm_scores",
]
