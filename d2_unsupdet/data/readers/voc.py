"""PASCAL VOC: one XML a image, a text file a split."""

import os
import xml.etree.ElementTree as ET
from pathlib import Path

from detectron2.structures import BoxMode

from d2_unsupdet.errors import UserError, nearest

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip


def read_voc(
    root: Path, split: str, classes: tuple[str, ...] = VOC_CLASSES, *, difficult: bool = True
) -> list[dict]:
    """Records of `ImageSets/Main/<split>.txt`.

    Args:
        root: the folder with Annotations, ImageSets and JPEGImages.
        split: name of the list without `.txt`.
        classes: names in label order.
        difficult: keep objects marked difficult, as Detectron2 does for training; each annotation
            carries the mark.
    """
    list_file = root / "ImageSets" / "Main" / f"{split}.txt"
    lines = [line.split() for line in list_file.read_text().splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{list_file} names no image.")
    # lists of one class hold a second column: -1 marks an image without that class
    ids = [parts[0] for parts in lines if len(parts) == 1 or parts[1] != "-1"]
    return [_record(root, image_id, classes, difficult) for image_id in ids]


def _record(root: Path, image_id: str, classes: tuple[str, ...], difficult: bool) -> dict:
    path = root / "Annotations" / f"{image_id}.xml"
    try:
        tree = ET.parse(path).getroot()
    except (OSError, ET.ParseError) as error:
        raise UserError(f"Cannot read the annotation file {path}: {error}.") from error
    file_name = os.path.join(root, "JPEGImages", f"{image_id}.jpg")
    width, height = _size(tree, file_name)
    objects = [_annotation(node, classes, path) for node in tree.iter("object")]
    return {
        "file_name": file_name,
        "image_id": image_id,
        "height": height,
        "width": width,
        "annotations": [o for o in objects if difficult or not o["difficult"]],
    }


def _size(tree: ET.Element, file_name: str) -> tuple[int, int]:
    width, height = (int(float(tree.findtext(f"size/{k}") or 0)) for k in ("width", "height"))
    if width > 0 and height > 0:
        return width, height
    from d2_unsupdet.data.images import image_size

    return image_size(file_name)


def _annotation(node: ET.Element, classes: tuple[str, ...], path: Path) -> dict:
    name = (node.findtext("name") or "").strip()
    if name not in classes:
        raise UserError(
            f"{path} holds the class {name!r}, which is not one of the {len(classes)} of this data "
            f"set.{nearest(name, classes)}"
        )
    box = node.find("bndbox")  # of the object itself: body parts have boxes of their own
    if box is None:
        raise UserError(f"{path} holds an object {name!r} without a box.")
    x0, y0, x1, y1 = (float(box.findtext(k) or "nan") for k in ("xmin", "ymin", "xmax", "ymax"))
    return {
        "category_id": classes.index(name),
        # VOC counts pixels from 1 and includes the last: (1, 1, w, h) is the whole image
        "bbox": [x0 - 1, y0 - 1, x1, y1],
        "bbox_mode": BoxMode.XYXY_ABS,
        "iscrowd": 0,
        "difficult": int(node.findtext("difficult") or 0),
    }
