"""Boxes nobody drew: where they come from, and the store that keeps them."""

from d2_unsupdet.availability import require_detectron2

require_detectron2()

from d2_unsupdet.priors.found import BoxSource, Found
from d2_unsupdet.priors.generation import Generation
from d2_unsupdet.priors.random_boxes import RandomBoxes
from d2_unsupdet.priors.store import PriorStore
from d2_unsupdet.priors.stored import StoredBoxes

__all__ = ["BoxSource", "Found", "Generation", "PriorStore", "RandomBoxes", "StoredBoxes"]
