"""COCO-style JSON. Category ids may start anywhere and have holes; labels are their rank.

A file name in the JSON is not trusted: it must stay inside the image folder.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from d2_unsupdet.data.readers.common import count_text, first_must_exist, inside, warn_once
from d2_unsupdet.errors import UserError


@dataclass(frozen=True)
class Categories:
    """Class names in label order, and the ids the file uses for them."""

    names: tuple[str, ...]
    ids: tuple[int, ...]

    def labels(self) -> dict[int, int]:
        """Category id -> label 0 .. K-1."""
        return {category: label for label, category in enumerate(self.ids)}


_known: dict[
    tuple[str, int, int], Categories
] = {}  # (path, mtime, size): parsing 450 MB takes 15 s


def coco_categories(json_file: Path) -> Categories:
    """The classes of a file, ordered by category id."""
    stamp = _stamp(json_file)
    return _known[stamp] if stamp in _known else _categories(_load(json_file), json_file)


def read_coco(json_file: Path, image_root: Path, *, extra: Sequence[str] = ()) -> list[dict]:
    """Records with boxes (XYWH) and, where the file has them, masks and keypoints.

    Boxes without area, outside the image or not of four numbers are left out and counted; missing
    sizes are read from the image files. A file without an `annotations` list gives records without
    labels. `extra` names lists of an image that its record takes over, empty where there is none.
    """
    content = _load(json_file)
    labels = _categories(content, json_file).labels()
    by_image = _group(content, json_file)
    problems: Counter[str] = Counter()
    records = []
    for image in _images(content, json_file):
        record = _record(image, image_root, json_file) | {k: image.get(k, []) for k in extra}
        if "annotations" in content:
            found = by_image.pop(image["id"], [])
            kept = (_annotation(a, record, labels, json_file, problems) for a in found)
            record["annotations"] = [a for a in kept if a is not None]
        records.append(record)
    problems["annotation of an unknown image"] += sum(map(len, by_image.values()))
    for problem, count in sorted(problems.items()):
        if count:
            warn_once(f"{json_file}: left out {count_text(count, problem)}.")
    first_must_exist(records, json_file)
    return records


def _stamp(path: Path) -> tuple[str, int, int]:
    status = os.stat(path)
    return str(path), status.st_mtime_ns, status.st_size


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read {path} as JSON: {error}.") from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise UserError(f"{path} is not a COCO-style file: it has no list 'images'.")
    return content


def _categories(content: dict[str, Any], path: Path) -> Categories:
    if content.get("annotations") and "categories" not in content:
        raise UserError(
            f'{path} has no \'categories\': add the list of {{"id": ..., "name": ...}} that its '
            "annotations' category_id are of."
        )
    try:
        listed = sorted(content.get("categories", []), key=lambda c: c["id"])
        result = Categories(
            tuple(str(c.get("name", c["id"])) for c in listed), tuple(c["id"] for c in listed)
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} holds a category without an integer 'id'.") from error
    if len(set(result.ids)) < len(result.ids):
        raise UserError(f"{path} holds two categories with the same id.")
    _known[_stamp(path)] = result
    return result


def _images(content: dict[str, Any], path: Path) -> list[dict]:
    try:
        images = sorted(content["images"], key=lambda i: i["id"])
    except (TypeError, KeyError) as error:
        raise UserError(f"{path} holds an image without an 'id'.") from error
    for before, after in zip(images, images[1:], strict=False):
        if before["id"] == after["id"]:
            raise UserError(f"{path} holds two images with the id {after['id']!r}.")
    return images


def _group(content: dict[str, Any], path: Path) -> dict[Any, list[dict]]:
    grouped = defaultdict(list)
    try:
        for annotation in content.get("annotations", []):
            grouped[annotation["image_id"]].append(annotation)
    except (TypeError, KeyError) as error:
        raise UserError(f"{path} holds an annotation without an 'image_id'.") from error
    return grouped


def _record(image: dict, image_root: Path, json_file: Path) -> dict:
    record = {
        "file_name": inside(image_root, _file_name(image), json_file),
        "image_id": image["id"],
    }
    if image.get("width") and image.get("height"):
        record |= {"height": int(image["height"]), "width": int(image["width"])}
    elif os.path.exists(record["file_name"]):
        from d2_unsupdet.data.images import image_size

        record["width"], record["height"] = image_size(record["file_name"])
    return record


def _file_name(image: dict) -> Any:
    """LVIS v1 gives no name: folder and file are the end of the address."""
    return image.get("file_name") or "/".join(str(image.get("coco_url", "")).split("/")[-2:])


def _annotation(
    source: dict, record: dict, labels: dict[int, int], path: Path, problems: Counter[str]
) -> dict | None:
    category = source.get("category_id")
    if category not in labels:
        raise UserError(
            f"{path} holds an annotation of category {category!r}, which its 'categories' "
            f"do not list (ids {', '.join(map(str, labels)) or 'none'})."
        )
    box = _numbers(source.get("bbox"))
    if box is None:
        problems["unreadable (not four numbers) box"] += 1
        return None
    if not _overlaps_image(box, record):
        problems["zero-area or out-of-image box"] += 1
        return None
    result = {
        "bbox": box,
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": labels[category],
        "iscrowd": int(source.get("iscrowd", 0)),
    }
    if source.get("segmentation"):
        result["segmentation"] = _segmentation(source["segmentation"])
        if not result["segmentation"]:
            problems["object with a broken mask"] += 1
            return None
    if source.get("keypoints"):
        # pixel indices become coordinates of pixel centres; every third value is the visibility
        points = source["keypoints"]
        result["keypoints"] = [v + 0.5 if i % 3 < 2 else v for i, v in enumerate(points)]
    return result


def _numbers(box: Any) -> list[float] | None:
    """x, y, width, height; None of anything else."""
    try:
        x, y, w, h = map(float, box)
    except (TypeError, ValueError):
        return None
    return [x, y, w, h]


def _overlaps_image(box: list[float], record: dict) -> bool:
    x, y, w, h = box
    right, bottom = record.get("width", float("inf")), record.get("height", float("inf"))
    return w > 0 and h > 0 and x < right and y < bottom and x + w > 0 and y + h > 0


def _segmentation(value: Any) -> Any:
    """Polygons of at least three points, or a compressed run-length mask."""
    if isinstance(value, dict):
        from pycocotools import mask as coco_mask

        return coco_mask.frPyObjects(value, *value["size"]) if _is_raw(value) else value
    return [p for p in value if isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0]


def _is_raw(value: dict) -> bool:
    return isinstance(value.get("counts"), list)
