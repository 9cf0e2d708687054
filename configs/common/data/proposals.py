# A labelled test set on which a pretraining run is scored without finetuning, as boxes without
# classes: AP, AP50, AP75 and AR@1, 10, 100. The labels are never trained on.
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from d2_unsupdet.data import DetectionMapper, build_test_loader, get_dataset
from d2_unsupdet.evaluation import build_evaluator


def proposals(test=None, *, test_edge=800, max_size=1333, workers=4):
    """`dataloader.update(**proposals("coco_2017_val"))`: test loader and evaluator.

    Without a name nothing is scored until dataloader.test.dataset.names=NAME gives one.
    """
    return dict(
        test=L(build_test_loader)(
            dataset=L(get_dataset)(names=test),
            mapper=L(DetectionMapper)(
                is_train=False,
                augmentations=[
                    L(T.ResizeShortestEdge)(short_edge_length=test_edge, max_size=max_size)
                ],
            ),
            num_workers=workers,
        ),
        evaluator=L(build_evaluator)(
            dataset_name="${dataloader.test.dataset.names}",
            output_dir="${train.output_dir}/evaluation",
            class_agnostic=True,
        ),
    )
