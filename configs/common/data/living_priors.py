# JoinDet's data: boxes of the run's own store, and what every refresh looks at.
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from d2_unsupdet.data import RefreshMapper
from d2_unsupdet.priors import StoredBoxes

from .priors import priors


def living_priors(names, augmentations, *, batch, workers=4, edge=480, max_size=800, **options):
    """`dataloader` of a JoinDet run: training and refresh, the latter always at one size."""
    train = priors(
        names,
        L(StoredBoxes)(path="${train.output_dir}/priors"),
        augmentations,
        batch=batch,
        workers=workers,
        **options,
    )
    refresh = dict(  # of the training images
        mapper=L(RefreshMapper)(
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=edge, max_size=max_size)],
        ),
        num_workers="${dataloader.train.num_workers}",
    )
    return dict(train=train, refresh=refresh)
