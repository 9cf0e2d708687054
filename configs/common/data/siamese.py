# Two overlapping views of images without labels and boxes that both show, for Siamese DETR.
from detectron2.config import LazyCall as L

from d2_unsupdet.data import SiamesePairMapper, build_train_loader, get_dataset
from d2_unsupdet.data.siamese_boxes import SharedBoxes
from d2_unsupdet.data.siamese_views import OverlappingViews

from .priors import SHORT_EDGES, crop_colours


def siamese(names, source, *, batch, short_edges=SHORT_EDGES, max_size=600, workers=4):
    """The training loader; `source=None` takes random boxes, the ablation of the paper."""
    return L(build_train_loader)(
        dataset=L(get_dataset)(names=names),
        mapper=L(SiamesePairMapper)(
            source=source,
            short_edges=list(short_edges),
            max_size=max_size,
            flip=0.5,
            views=L(OverlappingViews)(iou=0.5, scale=[0.5, 1.0], ratio=[3 / 4, 4 / 3], shrink=True),
            boxes=L(SharedBoxes)(count=10, least_area=0.05, jitter=0.1),
            crop_size=128,
            photometric=crop_colours(),
        ),
        total_batch_size=batch,
        seed="${train.seed}",
        num_workers=workers,
    )
