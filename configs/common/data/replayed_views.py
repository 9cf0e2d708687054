# PiCIE's protocol: replayed views without labels to learn from, centre crops with labels to score.
from detectron2.config import LazyCall as L

from d2_unsupdet.data import (
    ReplayedViewMapper,
    SegmentationTestMapper,
    build_test_loader,
    build_train_loader,
    get_dataset,
)
from d2_unsupdet.data.photometric import Photometric
from d2_unsupdet.data.replayed import PICIE
from d2_unsupdet.evaluation import ClusteringEvaluator

dataloader = dict(
    train=L(build_train_loader)(
        # Any registered name, or "folder:/path/to/images".
        dataset=L(get_dataset)(names="coco_stuff27_train", labels=False),
        mapper=L(ReplayedViewMapper)(
            size=320,
            resize=640,
            # Each operation with a chance of its own. For smaller squares also a smaller sigma:
            # dataloader.train.mapper.photometric.sigma=[0.1,0.4]
            photometric=L(Photometric)(**PICIE),
            redraw=True,  # False: one augmentation an image for all epochs, as DenseSiam's code
            seed="${train.seed}",
        ),
        total_batch_size=256,
        seed="${train.seed}",
        num_workers=4,
    ),
    test=L(build_test_loader)(
        # Any set of label maps, or "sem_seg:/path/to/labels@/path/to/images".
        dataset=L(get_dataset)(names="coco_stuff27_val"),
        mapper=L(SegmentationTestMapper)(size="${dataloader.train.mapper.size}"),
        batch_size=16,
        num_workers=4,
    ),
    evaluator=L(ClusteringEvaluator)(
        dataset_name="${dataloader.test.dataset.names}",
        output_dir="${train.output_dir}/evaluation",
    ),
)
