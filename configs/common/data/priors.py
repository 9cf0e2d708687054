# Images without labels and boxes that nobody drew, for UP-DETR, DETReg and JoinDet.
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from d2_unsupdet.data import PriorMapper, build_train_loader, get_dataset
from d2_unsupdet.data.photometric import Photometric

from .detr import crop_at_times

# UP-DETR's list, which the others took over: 384 is not in it.
SHORT_EDGES = (320, 336, 352, 368, 400, 416, 432, 448, 464, 480)


def resize(short_edges=SHORT_EDGES, max_size=600):
    """One of the lengths; UP-DETR neither mirrors nor cuts."""
    edges = list(short_edges)
    return L(T.ResizeShortestEdge)(
        short_edge_length=edges, sample_style="choice", max_size=max_size
    )


def flip_crop_resize(
    short_edges=SHORT_EDGES, max_size=600, *, crop_edges=(400, 500, 600), crop=(384, 600)
):
    """DETReg's: as the DETR family finetunes, at smaller sizes, on COCO too."""
    cropped = crop_at_times(crop_edges, crop)
    return [L(T.RandomFlip)(horizontal=True), cropped, resize(short_edges, max_size)]


def priors(names, source, augmentations, *, batch, workers=4, **options):
    """The training loader; options are those of `PriorMapper`.

    Any registered name, or "folder:/path/to/images"; source is any box source.
    """
    return L(build_train_loader)(
        dataset=L(get_dataset)(names=names),
        mapper=L(PriorMapper)(
            source=source,
            augmentations=augmentations,
            crop_size=128,
            photometric=crop_colours(),
            **options,
        ),
        total_batch_size=batch,
        seed="${train.seed}",
        num_workers=workers,
    )


def crop_colours(sigma=(0.1, 2.0)):
    """Of the pictures of boxes; sigma in their pixels, so less for smaller ones."""
    return L(Photometric)(
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
        jitter=0.8,
        grayscale=0.2,
        blur=0.5,
        sigma=list(sigma),
    )
