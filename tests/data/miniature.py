"""Writers of miniature data sets in their real formats."""

import json
from pathlib import Path

import cv2
import numpy as np

VOC_XML = """<annotation><size><width>{w}</width><height>{h}</height><depth>3</depth></size>
{objects}</annotation>"""
VOC_OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"""


def write_image(path: Path, width: int = 20, height: int = 10) -> Path:
    """A grey image; the parents are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
    return path


def write_labelled(image: Path, *names: str) -> Path:
    """A grey image and its XML beside it, one box a name."""
    write_image(image)
    places = dict(difficult=0, x0=1, y0=1, x1=8, y1=8)
    objects = "".join(VOC_OBJECT.format(name=name, **places) for name in names)
    image.with_suffix(".xml").write_text(VOC_XML.format(w=20, h=10, objects=objects))
    return image


def write_coco(root: Path, **changes) -> tuple[Path, Path]:
    """A COCO folder with category ids 3, 7 and 90, one crowd and one image without objects."""
    for name in ("a.jpg", "sub/b.jpg", "c.jpg"):
        write_image(root / "images" / name)
    content = {
        "images": [
            {"id": 12, "file_name": "a.jpg", "width": 20, "height": 10},
            {"id": 5, "file_name": "sub/b.jpg", "width": 20, "height": 10},
            {"id": 40, "file_name": "c.jpg", "width": 20, "height": 10},
        ],
        "categories": [{"id": 90, "name": "z"}, {"id": 3, "name": "x"}, {"id": 7, "name": "y"}],
        "annotations": [
            box(1, 12, 90, [1, 2, 3, 4]),
            box(2, 12, 3, [0, 0, 5, 5]),
            box(3, 5, 7, [2, 2, 2, 2], iscrowd=1),
        ],
        **changes,
    }
    path = root / "labels.json"
    path.write_text(json.dumps(content))
    return path, root / "images"


def box(number: int, image: int, category: int, bbox: list, **more) -> dict:
    """A COCO annotation."""
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, **more}
