# Finetuning data in Detectron2's augmentation: a short edge from a list, horizontal flip.
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from omegaconf import DictConfig

from d2_unsupdet.data import (
    DetectionMapper,
    build_test_loader,
    build_train_loader,
    get_dataset,
)
from d2_unsupdet.evaluation import build_evaluator


def detection(train, test, *, batch, short_edges, max_size, test_edge, masks=False):
    """Train and test loaders and the evaluator of one protocol."""
    loaders = dict(
        train=L(build_train_loader)(
            dataset=L(get_dataset)(names=train, subset=None, keep_empty=False, sizes=True),
            mapper=L(DetectionMapper)(
                is_train=True,
                augmentations=[
                    L(T.ResizeShortestEdge)(
                        short_edge_length=list(short_edges),
                        sample_style="choice",
                        max_size=max_size,
                    ),
                    L(T.RandomFlip)(horizontal=True),
                ],
                use_instance_mask=masks,
            ),
            total_batch_size=batch,
            seed="${train.seed}",
            num_workers=4,
            aspect_ratio_grouping=True,
        ),
        test=L(build_test_loader)(
            dataset=L(get_dataset)(names=test),
            mapper=L(DetectionMapper)(
                is_train=False,
                augmentations=[
                    L(T.ResizeShortestEdge)(short_edge_length=test_edge, max_size=max_size)
                ],
            ),
            num_workers=4,
        ),
        evaluator=L(build_evaluator)(
            dataset_name="${dataloader.test.dataset.names}",
            output_dir="${train.output_dir}/evaluation",
        ),
    )
    return DictConfig(loaders, flags={"allow_objects": True})
