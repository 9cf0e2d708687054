"""COCO-format ground truth of any detection data set, in memory.

Two things surprise: every annotation gets a new id counted from 1, because the COCO tools read a
match with id 0 as "no match"; and image ids become integers, because the compiled back end needs
them (`image_ids` leads back to the data set's own).
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_tools

from d2_unsupdet.errors import UserError

Segmentation = dict[str, Any] | list[list[float]]


@dataclass
class GroundTruth:
    """A COCO dictionary whose image ids are 1..N, and what is needed to translate predictions.

    Args:
        dataset: `images`, `annotations` and `categories` as in a COCO file, completed.
        image_ids: the data set's own image id -> id in `dataset`.
        category_ids: contiguous class index (what a model predicts) -> id in `dataset`.
        has_masks: every annotation carries a segmentation.
    """

    dataset: dict[str, list[dict[str, Any]]]
    image_ids: dict[Any, int]
    category_ids: list[int]
    has_masks: bool

    @property
    def class_names(self) -> list[str]:
        """Names in the order of the contiguous class index."""
        names = {category["id"]: category["name"] for category in self.dataset["categories"]}
        return [names[i] for i in self.category_ids]

    def only(self, image_ids: Iterable[Any]) -> "GroundTruth":
        """The ground truth of some images, given by the data set's own ids."""
        kept = {image: self.image_ids[image] for image in image_ids}
        numbers = set(kept.values())
        dataset = {
            **self.dataset,
            "images": [i for i in self.dataset["images"] if i["id"] in numbers],
            "annotations": [a for a in self.dataset["annotations"] if a["image_id"] in numbers],
        }
        return replace(self, dataset=dataset, image_ids=kept)


def from_json(path: str | Path, contiguous: dict[int, int] | None = None) -> GroundTruth:
    """Ground truth of a COCO file; `contiguous` maps its category ids to class indices."""
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"The annotation file {path} cannot be read: {error}.") from error
    lists: dict[str, Any] = dict(content) if isinstance(content, dict) else {}
    absent = [
        k for k in ("images", "annotations", "categories") if not isinstance(lists.get(k), list)
    ]
    if absent:
        raise UserError(
            f"The annotation file {path} has no list '{absent[0]}', so it gives no scores."
        )
    if contiguous is None:  # Detectron2's rule: class index = rank of the category id
        contiguous = {c: i for i, c in enumerate(sorted(c["id"] for c in content["categories"]))}
    return _build(content["images"], content["annotations"], content["categories"], contiguous)


def from_records(
    records: Sequence[dict[str, Any]],
    class_names: Sequence[str],
    contiguous: dict[int, int] | None = None,
) -> GroundTruth:
    """Ground truth of Detectron2 records, for data sets that are not COCO files (VOC, toy)."""
    mapping: dict[int, int] = dict(contiguous or enumerate(range(len(class_names))))
    category_of = {index: category for category, index in mapping.items()}
    categories = [{"id": category_of[i], "name": name} for i, name in enumerate(class_names)]
    images, annotations = [], []
    for record in records:
        image: dict[str, Any] = {k: record[k] for k in ("height", "width") if k in record}
        image |= {"id": record["image_id"], "file_name": str(record.get("file_name", ""))}
        images.append(image)
        for entry in record.get("annotations", ()):
            annotations.append(_from_record(entry, record["image_id"], category_of))
    return _build(images, annotations, categories, mapping)


def _from_record(
    entry: dict[str, Any], image_id: Any, category_of: dict[int, int]
) -> dict[str, Any]:
    from detectron2.structures import BoxMode

    box = BoxMode.convert(list(map(float, entry["bbox"])), entry["bbox_mode"], BoxMode.XYWH_ABS)
    annotation = {
        "image_id": image_id,
        "category_id": category_of[entry["category_id"]],
        "bbox": box,
        "iscrowd": int(entry.get("iscrowd", 0)),
    }
    if entry.get("segmentation"):
        annotation["segmentation"] = entry["segmentation"]
    return annotation


def _build(
    images: Iterable[dict[str, Any]],
    annotations: Iterable[dict[str, Any]],
    categories: list[dict[str, Any]],
    contiguous: dict[int, int],
) -> GroundTruth:
    image_ids: dict[Any, int] = {}
    new_images = []
    for image in images:
        if image["id"] not in image_ids:
            image_ids[image["id"]] = len(image_ids) + 1
            new_images.append({**image, "id": image_ids[image["id"]]})
    by_id = {image["id"]: image for image in new_images}
    new_annotations: list[dict[str, Any]] = []
    for annotation in annotations:
        if annotation["image_id"] in image_ids and annotation["category_id"] in contiguous:
            image = by_id[image_ids[annotation["image_id"]]]
            new_annotations.append(_complete(annotation, image, len(new_annotations) + 1))
    has_masks = bool(new_annotations) and all(
        isinstance(a.get("segmentation"), dict) for a in new_annotations
    )
    kept = [category for category in categories if category["id"] in contiguous]
    dataset = {"images": new_images, "annotations": new_annotations, "categories": kept}
    order = sorted(contiguous, key=contiguous.__getitem__)
    return GroundTruth(dataset, image_ids, order, has_masks)


def _complete(annotation: dict[str, Any], image: dict[str, Any], new_id: int) -> dict[str, Any]:
    """Fill in what hand-made files leave out: crowd flag, area, box."""
    full = {**annotation, "id": new_id, "image_id": image["id"]}
    full["iscrowd"] = int(annotation.get("iscrowd") or 0)
    if not full.get("segmentation"):
        full.pop("segmentation", None)
    if "segmentation" in full and "height" in image and "width" in image:
        polygons = _drawable(full["segmentation"], full.get("bbox"))
        full["segmentation"] = compress(polygons, image["height"], image["width"])
    rle = full.get("segmentation") if isinstance(full.get("segmentation"), dict) else None
    if "bbox" not in full and rle is not None:
        full["bbox"] = [float(v) for v in mask_tools.toBbox(rle)]
    if "bbox" not in full:
        raise UserError(f"Annotation {annotation.get('id')} of image {image['id']} has no 'bbox'.")
    if full.get("area") is None:
        box_area = float(np.prod(full["bbox"][2:4]))
        full["area"] = float(mask_tools.area(rle)) if rle is not None else box_area
    return full


def _drawable(segmentation: Segmentation, box: Sequence[float] | None) -> Segmentation:
    """Without polygons of fewer than three corners; the box stands in when none is left."""
    if isinstance(segmentation, dict):
        return segmentation
    polygons = [p for p in segmentation if len(p) >= 6]
    if not polygons and box is not None:
        x, y, w, h = box
        polygons = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return polygons


def compress(segmentation: Segmentation, height: int, width: int) -> dict[str, Any]:
    """Any of COCO's three mask forms (polygons, raw runs, compressed runs) as compressed runs."""
    if isinstance(segmentation, list):
        parts = mask_tools.frPyObjects(segmentation, height, width)
        return dict(mask_tools.merge(parts))
    if isinstance(segmentation["counts"], list):
        return dict(mask_tools.frPyObjects(segmentation, height, width))
    counts = segmentation["counts"]
    return {
        "size": list(segmentation["size"]),
        "counts": counts.encode() if isinstance(counts, str) else counts,
    }
