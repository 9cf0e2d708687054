# Semantic segmentation in the dilated FCN's augmentation: random scale, square crop, mirror; tested
# on whole images at their own size.
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from omegaconf import DictConfig

from d2_unsupdet.data import (
    ScaledCrop,
    SemanticMapper,
    build_test_loader,
    build_train_loader,
    get_dataset,
)
from d2_unsupdet.evaluation import build_evaluator


def semantic(train, test, *, batch, crop, scale=(0.5, 2.0)):
    """Train and test loaders and the evaluator of one protocol; the model is a dilated FCN."""
    loaders = dict(
        train=L(build_train_loader)(
            dataset=L(get_dataset)(names=train, subset=None),
            mapper=L(SemanticMapper)(
                augmentations=[
                    L(ScaledCrop)(size=crop, scale=list(scale), ignore_label="${...ignore_label}"),
                    L(T.RandomFlip)(horizontal=True),
                ],
                num_classes="${model.sem_seg_head.num_classes}",
                ignore_label="${model.sem_seg_head.ignore_value}",
            ),
            total_batch_size=batch,
            seed="${train.seed}",
            num_workers=4,
        ),
        test=L(build_test_loader)(
            dataset=L(get_dataset)(names=test),
            mapper=L(SemanticMapper)(augmentations=[], labelled=False),
            num_workers=4,
        ),
        evaluator=L(build_evaluator)(
            dataset_name="${dataloader.test.dataset.names}",
            output_dir="${train.output_dir}/evaluation",
        ),
    )
    return DictConfig(loaders, flags={"allow_objects": True})
