"""A dilated FCN's loaders from Detectron2's YAML: what configs/common/data/semantic.py says."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from d2_unsupdet.data import (
    ScaledCrop,
    SemanticMapper,
    build_test_loader,
    build_train_loader,
    catalog,
    get_dataset,
)
from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation import build_evaluator


def is_semantic(cfg: CfgNode) -> bool:
    """Whether the model is our FCN; Detectron2's own head wants what `DetectionMapper` gives."""
    model = cfg.MODEL
    segmentor = model.META_ARCHITECTURE == "SemanticSegmentor"
    return segmentor and model.SEM_SEG_HEAD.NAME == "DilatedFCNHead"


def best_score(cfg: CfgNode) -> str:
    """Cityscapes' own scripts call the mean IoU by another name."""
    for name in cfg.DATASETS.TEST:
        if catalog.metadata(name).get("evaluator_type") == "cityscapes_sem_seg":
            return "sem_seg/IoU"
    return "sem_seg/mIoU"


def semantic_loaders(cfg: CfgNode) -> dict[str, Any]:
    """Train and test loaders and the evaluator."""
    inputs, head, workers = cfg.INPUT, cfg.MODEL.SEM_SEG_HEAD, cfg.DATALOADER.NUM_WORKERS
    crop = inputs.CROP
    if not crop.ENABLED or crop.TYPE != "absolute" or len(set(crop.SIZE)) != 1:
        raise UserError(
            f"A dilated FCN trains on square crops: set INPUT.CROP.ENABLED True, TYPE 'absolute' "
            f"and SIZE [769, 769] (ENABLED is {crop.ENABLED}, TYPE '{crop.TYPE}', SIZE "
            f"{list(crop.SIZE)})."
        )
    if len(cfg.DATASETS.TEST) > 1:
        raise UserError(f"DATASETS.TEST={cfg.DATASETS.TEST}: one test set a run, please.")
    scale = list(crop.SCALES) or [1.0, 1.0]
    augmentations: list[Any] = [
        L(ScaledCrop)(size=int(crop.SIZE[0]), scale=scale, ignore_label=head.IGNORE_VALUE)
    ]
    if inputs.RANDOM_FLIP != "none":
        horizontal = inputs.RANDOM_FLIP == "horizontal"
        augmentations.append(L(T.RandomFlip)(horizontal=horizontal, vertical=not horizontal))
    loaders: dict[str, Any] = {
        "train": L(build_train_loader)(
            dataset=L(get_dataset)(names=list(cfg.DATASETS.TRAIN)),
            mapper=L(SemanticMapper)(
                augmentations=augmentations,
                num_classes=head.NUM_CLASSES,
                ignore_label=head.IGNORE_VALUE,
                image_format=inputs.FORMAT,
            ),
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            seed="${train.seed}",
            num_workers=workers,
        )
    }
    if cfg.DATASETS.TEST:
        loaders["test"] = L(build_test_loader)(
            dataset=L(get_dataset)(names=cfg.DATASETS.TEST[0]),
            mapper=L(SemanticMapper)(image_format=inputs.FORMAT, labelled=False),
            num_workers=workers,
        )
        loaders["evaluator"] = L(build_evaluator)(
            dataset_name="${dataloader.test.dataset.names}",
            output_dir="${train.output_dir}/evaluation",
        )
    return loaders
