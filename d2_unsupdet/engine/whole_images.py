"""Whole images as a detector sees them outside of training, and their names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from detectron2.data import transforms as T
from omegaconf import DictConfig

from d2_unsupdet.data import DetectionMapper
from d2_unsupdet.engine.config import nodes, scored_set


def whole_image_mapper(cfg: DictConfig) -> Any:
    """That of the test set; of a pretraining run without one, the largest size it trains at."""
    if scored_set(cfg) is not None:
        return instantiate(cfg.dataloader.test.mapper)
    edges = [
        (max(edge) if not isinstance(edge, int) else edge, node.get("max_size"))
        for _, node in nodes(cfg.dataloader.train.mapper)
        if (edge := node.get("short_edge_length")) is not None
    ]
    if not edges:
        return DetectionMapper(is_train=False, augmentations=[])
    edge, longest = max(edges, key=lambda pair: pair[0])
    resize = T.ResizeShortestEdge(edge, **({"max_size": longest} if longest else {}))
    return DetectionMapper(is_train=False, augmentations=[resize])


def as_it_is(record: dict[str, Any], *, masks: bool = False) -> dict[str, Any]:
    """The image in its own size, with its objects if it has any, and with their masks if asked."""
    masks = masks and any("segmentation" in a for a in record.get("annotations", ()))
    mapper = DetectionMapper(
        is_train=True, augmentations=[], use_instance_mask=masks, instance_mask_format="bitmask"
    )
    return mapper(dict(record))


def spread_places(size: int, count: int) -> list[int]:
    """At most `count` places of `size`, evenly spaced, the first included."""
    count = min(size, count)
    return [i * size // count for i in range(count)]


def short_names(paths: Sequence[str]) -> list[str]:
    """File names; with their folder where two files have the same."""
    names = [Path(path).name for path in paths]
    return [
        name if names.count(name) == 1 else f"{Path(path).parent.name}/{name}"
        for name, path in zip(names, paths, strict=True)
    ]
