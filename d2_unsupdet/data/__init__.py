"""From files to batches: catalog, mappers, the batch plan and its loaders."""

from d2_unsupdet.availability import require_detectron2

require_detectron2()

from d2_unsupdet.data import builtin
from d2_unsupdet.data.augmentations import RandomPhotometric
from d2_unsupdet.data.catalog import get_dataset
from d2_unsupdet.data.loader import TrainLoader, build_test_loader, build_train_loader
from d2_unsupdet.data.mappers import DetectionMapper, PairedViewMapper
from d2_unsupdet.data.paste import PasteSmallBoxes
from d2_unsupdet.data.plan import BatchPlan, Position
from d2_unsupdet.data.prior_mapper import PriorMapper
from d2_unsupdet.data.refresh_mapper import RefreshMapper
from d2_unsupdet.data.replayed import ReplayedViewMapper, SegmentationTestMapper
from d2_unsupdet.data.scale_jitter import LargeScaleJitter
from d2_unsupdet.data.semantic import ScaledCrop, SemanticMapper
from d2_unsupdet.data.siamese_mapper import SiamesePairMapper

__all__ = [
    "BatchPlan",
    "DetectionMapper",
    "LargeScaleJitter",
    "PairedViewMapper",
    "PasteSmallBoxes",
    "Position",
    "PriorMapper",
    "RandomPhotometric",
    "RefreshMapper",
    "ReplayedViewMapper",
    "ScaledCrop",
    "SegmentationTestMapper",
    "SemanticMapper",
    "SiamesePairMapper",
    "TrainLoader",
    "build_test_loader",
    "build_train_loader",
    "get_dataset",
]

builtin.register_all()
