"""Detections: the post-processing alone, and what a user's call of the model returns."""

from collections.abc import Iterator, Sequence

import torch
from detectron2.structures import Boxes
from torch import Tensor

from d2_unsupdet.detectors import DETR
from d2_unsupdet.parity.compare import Row, align_detections, compare
from d2_unsupdet.parity.golden import Golden

PARTS = ("scores", "labels", "boxes")


def check_detections(
    golden: Golden, model: DETR, logits: Tensor, boxes: Tensor, order: Tensor
) -> Iterator[Row]:
    """From the last layer's logits and boxes; `order` (B, N): our query at each golden place."""
    sizes = _sizes(golden)
    if not sizes:
        return
    for image, one in enumerate(model.postprocess(logits, boxes, sizes)):
        ours = [one.scores.detach(), one.labels, one.boxes.detach()]
        theirs = [golden.arrays[f"post.img{image}.{part}"] for part in PARTS]
        if model.heads.background:  # DETR answers query by query, so nothing is sorted
            ours = [value[order[image]] for value in ours]
        else:
            ours = align_detections(ours, theirs)
        yield from _rows(f"post.img{image}", ours, theirs, sizes[image])


@torch.no_grad()
def check_forward(golden: Golden, model: DETR) -> Iterator[Row]:
    """The model called with pictures, as in evaluation: boxes end at the picture's border there."""
    sizes = _sizes(golden)
    if not sizes:
        return
    images = golden.images()
    batch = [
        {
            "image": images[i] * model.pixel_std + model.pixel_mean,
            "height": height,
            "width": width,
        }
        for i, (height, width) in enumerate(sizes)
    ]
    for image, (answer, size) in enumerate(zip(model(batch), sizes, strict=True)):
        found = answer["instances"]
        ours = [found.scores, found.pred_classes, found.pred_boxes.tensor]
        theirs = [golden.arrays[f"post.img{image}.{part}"] for part in PARTS]
        clipped = Boxes(theirs[2].clone())
        clipped.clip(size)
        kept = clipped.nonempty()
        theirs = [theirs[0][kept], theirs[1][kept], clipped.tensor[kept]]
        if not model.heads.background:
            ours = align_detections(ours, theirs)
        yield from _rows(f"forward.img{image}", ours, theirs, size)


def _sizes(golden: Golden) -> list[tuple[int, int]]:
    if "post.img0.scores" not in golden.arrays:
        return []
    return [(h, w) for h, w in golden.manifest.get("post_target_sizes", [])]


def _rows(
    name: str, ours: Sequence[Tensor], theirs: Sequence[Tensor], size: tuple[int, int]
) -> Iterator[Row]:
    height, width = size
    side = torch.tensor([width, height, width, height])
    yield compare(f"{name}.scores", "scores", ours[0], theirs[0])
    yield compare(f"{name}.labels", "exact", ours[1], theirs[1])
    yield compare(f"{name}.boxes", "pixels", ours[2] / side, theirs[2] / side)
