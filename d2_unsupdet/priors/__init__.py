"""Boxes nobody drew: where they come from, and the store that keeps them."""

from d2_unsupdet.availability import require_detectron2

require_detectron2()

from d2_unsupdet.priors.box_smooth import BoxSmooth, DirectUpdate, NmsUpdate
from d2_unsupdet.priors.edge_boxes import EdgeBoxes
from d2_unsupdet.priors.eigen_attention import EigenAttention, EigenBoxes
from d2_unsupdet.priors.found import BoxSource, Found
from d2_unsupdet.priors.generation import Generation
from d2_unsupdet.priors.random_boxes import RandomBoxes
from d2_unsupdet.priors.selective_search import SelectiveSearch
from d2_unsupdet.priors.store import PriorStore
from d2_unsupdet.priors.stored import StoredBoxes

__all__ = [
    "BoxSmooth",
    "BoxSource",
    "DirectUpdate",
    "EdgeBoxes",
    "EigenAttention",
    "EigenBoxes",
    "Found",
    "Generation",
    "NmsUpdate",
    "PriorStore",
    "RandomBoxes",
    "SelectiveSearch",
    "StoredBoxes",
]
