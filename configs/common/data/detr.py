# Finetuning data as the DETR family trains: flip; for every other image a resize and a crop; then a
# resize to one of eleven lengths. Images without objects stay, since every query learns "nothing".
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from .detection import detection


def detr(
    train,
    test,
    *,
    batch,
    short_edges=range(480, 800 + 1, 32),
    max_size=1333,
    test_edge=800,
    crop_edges=(400, 500, 600),  # without a longest side
    crop=(384, 600),  # height and width of the crop, each on its own
):
    """Loaders and evaluator of one protocol; `...augmentations.1.prob=0` leaves the crop out."""
    loaders = detection(
        train,
        test,
        batch=batch,
        short_edges=short_edges,
        max_size=max_size,
        test_edge=test_edge,
    )
    resize, flip = loaders.train.mapper.augmentations
    loaders.train.mapper.augmentations = [flip, crop_at_times(crop_edges, crop), resize]
    loaders.train.dataset.keep_empty = True
    return loaders


def crop_at_times(edges, crop):
    """For every other image: its shorter side to one of the edges, then a random crop."""
    return L(T.RandomApply)(
        tfm_or_aug=L(T.AugmentationList)(
            augs=[
                L(T.ResizeShortestEdge)(short_edge_length=list(edges), sample_style="choice"),
                L(T.RandomCrop)(crop_type="absolute_range", crop_size=list(crop)),
            ]
        ),
        prob=0.5,
    )
