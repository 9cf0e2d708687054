"""A small data set of one's own, before one has one: images, and labels in three formats.

    python datasets/make_example.py FOLDER

    FOLDER/unlabeled/*.jpg                                images without labels
    FOLDER/images/train/*.jpg, images/val/*.jpg           a few with labels, as
    FOLDER/train.json, val.json                           COCO
    FOLDER/data.yaml, labels/train/*.txt, labels/val      YOLO
    FOLDER/voc/Annotations, ImageSets/Main, JPEGImages    VOC

Scenes of the embedded data set: eight shapes, 128 pixels, drawn here, nothing is downloaded.
"""

import argparse
import json
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, installed or not

from d2_unsupdet.cli import Parser, positive, run_tool
from d2_unsupdet.data import get_dataset
from d2_unsupdet.data.scenes import CLASSES
from d2_unsupdet.errors import UserError


def make(root: Path, *, unlabeled: int, train: int, val: int) -> None:
    """Draw the images and write the labels."""
    if root.exists() and any(root.iterdir()):
        raise UserError(f"{root} is not empty: name a new folder, or delete it.")
    _copy(get_dataset(f"toy_unlabeled:images={unlabeled}"), root / "unlabeled")
    for split, count in (("train", train), ("val", val)):
        records = get_dataset(f"toy_{split}:images={count}")
        names = _copy(records, root / "images" / split)
        write_coco(root / f"{split}.json", records, names)
        write_yolo(root / "labels" / split, records, names)
        write_voc(root / "voc", split, records, names)
    folders = {split: f"images/{split}" for split in ("train", "val")}
    (root / "data.yaml").write_text(yaml.safe_dump({**folders, "names": list(CLASSES)}))


def _copy(records: list[dict], folder: Path) -> list[str]:
    folder.mkdir(parents=True)
    for record in records:
        shutil.copy(record["file_name"], folder)
    return [Path(record["file_name"]).name for record in records]


def write_coco(path: Path, records: list[dict], names: list[str]) -> None:
    """Boxes and outlines under category ids from 1; areas are those of the outlines."""
    images, annotations = [], []
    for number, (record, name) in enumerate(zip(records, names, strict=True), start=1):
        size = {key: record[key] for key in ("width", "height")}
        images.append({"id": number, "file_name": name, **size})
        for found in record["annotations"]:
            x, y, w, h = found["bbox"]  # of the embedded data set: x, y, width, height
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": found["category_id"] + 1,
                    "bbox": [x, y, w, h],
                    "segmentation": found["segmentation"],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES, start=1)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    path.write_text(json.dumps(content))


def write_yolo(folder: Path, records: list[dict], names: list[str]) -> None:
    """One text file an image, classes from 0."""
    folder.mkdir(parents=True)
    for record, name in zip(records, names, strict=True):
        width, height = record["width"], record["height"]
        lines = []
        for found in record["annotations"]:
            x, y, w, h = found["bbox"]
            values = (x + w / 2) / width, (y + h / 2) / height, w / width, h / height
            lines.append(" ".join([str(found["category_id"]), *(f"{v:.6f}" for v in values)]))
        text = "".join(f"{line}\n" for line in lines)
        (folder / Path(name).with_suffix(".txt")).write_text(text)


def write_voc(root: Path, split: str, records: list[dict], names: list[str]) -> None:
    """One XML an image, in VOC's folders; corners count from 1."""
    places = [root / part for part in ("Annotations", "ImageSets/Main", "JPEGImages")]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    stems = []
    for record, name in zip(records, names, strict=True):
        tree = ET.Element("annotation")
        _leaf(tree, "filename", f"{split}_{name}")
        size = ET.SubElement(tree, "size")
        for key in ("width", "height"):
            _leaf(size, key, record[key])
        for found in record["annotations"]:
            x, y, w, h = (round(v) for v in found["bbox"])
            node = ET.SubElement(tree, "object")
            _leaf(node, "name", CLASSES[found["category_id"]])
            _leaf(node, "difficult", 0)
            box = ET.SubElement(node, "bndbox")
            corners = (x + 1, y + 1, x + w, y + h)
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
                _leaf(box, key, value)
        stems.append(f"{split}_{Path(name).stem}")
        ET.ElementTree(tree).write(places[0] / f"{stems[-1]}.xml")
        shutil.copy(record["file_name"], places[2] / f"{stems[-1]}.jpg")
    (places[1] / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))


def _leaf(node: ET.Element, name: str, value: object) -> None:
    ET.SubElement(node, name).text = str(value)


def main() -> None:
    """Command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder")
    for name, count in (("unlabeled", 1000), ("train", 50), ("val", 100)):
        parser.add_argument(f"--{name}", type=positive, default=count, help=f"images ({count})")
    options = parser.parse_args()
    counts = {name: getattr(options, name) for name in ("unlabeled", "train", "val")}
    make(options.folder, **counts)
    total = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    print(f"{options.folder}: {total} images; labels as COCO, YOLO and VOC")


if __name__ == "__main__":
    run_tool(main)
