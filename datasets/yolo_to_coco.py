"""COCO JSONs from YOLO text labels.

    python datasets/yolo_to_coco.py my/data.yaml my                   # my/train.json, my/val.json
    python datasets/yolo_to_coco.py images/train labels/train train.json --classes classes.txt

`labels/<name>.txt` holds lines `<class> <cx> <cy> <w> <h>` as fractions of the image, or
`<class> <x1> <y1> <x2> <y2> ...` for an outline. An image without a file, or with an empty one,
has no objects. Classes keep their numbers; --classes takes one name a line, or a data.yaml.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, installed or not

from d2_unsupdet.cli import Parser, run_tool
from d2_unsupdet.data.images import image_size
from d2_unsupdet.data.readers import read_folder
from d2_unsupdet.data.readers.common import count_text, read_names, read_text
from d2_unsupdet.errors import UserError

SPLITS = ("train", "val", "test")
SLACK = 1.5  # centres near a border and rounding pass 1, pixels pass this


def convert(images: Path, labels: Path, classes: Mapping[int, str]) -> dict:
    """The content of the JSON; file names are relative to `images`."""
    for folder in (images, labels):
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder}.")
    listed, annotations, read, missing, flat, empty = [], [], set(), [], [], 0
    for number, record in enumerate(read_folder(images), start=1):
        width, height = image_size(record["file_name"])
        file_name = record["image_id"]
        listed.append({"id": number, "file_name": file_name, "width": width, "height": height})
        text = labels / Path(file_name).with_suffix(".txt")
        if not text.exists():
            missing.append(file_name)
            continue
        read.add(text)
        lines = read_text(text).splitlines()
        empty += not any(map(str.strip, lines))
        for place, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"Line {place} of {text}"
            found = parse_line(line, width, height, classes, where)
            if min(found["bbox"][2:]) > 0:
                annotations.append({"id": len(annotations) + 1, "image_id": number, **found})
            else:
                flat.append(where)
    _check_pairs(images, labels, read)
    if missing:
        print(
            f"{len(missing)} of {len(listed)} images have no label file and count as empty, "
            f"{missing[0]} for one"
        )
    if empty:
        print(f"{empty} of {len(listed)} images have an empty label file")
    if flat:
        print(f"{count_text(len(flat), 'box')} without area left out: {flat[0]} for one")
    categories = [{"id": k, "name": name} for k, name in sorted(classes.items())]
    return {"info": {}, "images": listed, "categories": categories, "annotations": annotations}


def _check_pairs(images: Path, labels: Path, read: set[Path]) -> None:
    """Label files that fit no image are the sign of a wrong folder."""
    spare = [p for p in labels.rglob("*.txt") if p not in read and p.name != "classes.txt"]
    if not read:
        raise UserError(
            f"No file in {labels} has the name of an image in {images}, so nothing is labelled: "
            "labels/a/b.txt belongs to images/a/b.jpg."
        )
    if spare:
        name = spare[0].relative_to(labels)
        print(f"{len(spare)} label files of {labels} belong to no image, {name} for one")


def parse_line(line: str, width: int, height: int, classes: Mapping[int, str], source: str) -> dict:
    """One object in pixels; `source` says where the line stands."""
    try:
        label, *values = int(line.split()[0]), *map(float, line.split()[1:])
    except ValueError:
        raise UserError(
            f"{source} is not numbers: {line!r}; write <class> <cx> <cy> <w> <h>, or delete it."
        ) from None
    if label not in classes:
        known = ", ".join(map(str, sorted(classes)))
        raise UserError(f"{source} holds class {label}, but the named classes are {known}.")
    if not all(-SLACK < value < SLACK for value in values):
        raise UserError(f"{source} holds {line!r}: places are fractions of the image, 0 to 1.")
    if len(values) == 4:
        cx, cy, w, h = values
        if w < 0 or h < 0:
            raise UserError(f"{source} is a box of negative size: {line!r}; mend or delete it.")
        box = [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]
        return _object(label, box, box[2] * box[3])
    if len(values) < 6 or len(values) % 2:
        raise UserError(
            f"{source} has {len(values)} numbers after the class: 4 are a box, an even number "
            "from 6 is an outline; scores of predictions do not belong here."
        )
    xs, ys = [v * width for v in values[::2]], [v * height for v in values[1::2]]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    corners = list(zip(xs, ys, strict=True))
    turns = zip(corners, corners[1:] + corners[:1], strict=True)
    area = abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in turns)) / 2
    return _object(label, box, area) | {"segmentation": [[v for xy in corners for v in xy]]}


def _object(label: int, box: list[float], area: float) -> dict:
    return {"category_id": label, "bbox": box, "area": area, "iscrowd": 0}


def read_classes(path: Path) -> dict[int, str]:
    """Number -> name, from one name a line or from the `names` of a data.yaml."""
    if not path.is_file():
        raise UserError(f"There is no file {path} to read the classes from.")
    if path.suffix not in (".yaml", ".yml"):
        return dict(enumerate(read_names(path)))
    names = _read_yaml(path).get("names")
    if isinstance(names, list):
        return dict(enumerate(map(str, names)))
    if not isinstance(names, dict) or not all(isinstance(key, int) for key in names):
        raise UserError(f"{path} has no list 'names', nor names under their numbers.")
    return {key: str(name) for key, name in names.items()}


def splits_of(path: Path) -> dict[str, Path]:
    """The image folders that a data.yaml names, by split."""
    content = _read_yaml(path)
    bases = [path.parent / str(content.get("path", "")), path.parent]
    found = {}
    for split in SPLITS:
        entry = content.get(split)
        if entry is None:
            continue
        if not isinstance(entry, str):
            raise UserError(f"{path}: '{split}' is not one folder; convert its parts one by one.")
        # exports often name ../train/images for a folder beside the file
        tried = [base / text for base in bases for text in (entry, entry.removeprefix("../"))]
        folder = next((place for place in tried if place.is_dir()), None)
        if folder is None:
            raise UserError(f"{path} names '{split}: {entry}', and {tried[0]} is no folder.")
        found[split] = folder
    if not found:
        raise UserError(f"{path} names no folder of images: it has none of {', '.join(SPLITS)}.")
    return found


def labels_beside(images: Path) -> Path:
    """YOLO's rule: the last `images` of a path becomes `labels`."""
    parts = list(images.parts)
    if "images" not in parts:
        return images  # labels beside the images
    place = len(parts) - 1 - parts[::-1].index("images")
    return Path(*parts[:place], "labels", *parts[place + 1 :])


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        said = getattr(error, "problem", None) or type(error).__name__
        raise UserError(f"{path} is no YAML{where}: {said}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no keys.")
    return content


def write(images: Path, labels: Path, output: Path, classes: Mapping[int, str]) -> None:
    """Write one JSON, say what it holds and how it is named."""
    content = convert(images, labels, classes)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(content))
    print(f"{len(content['images'])} images, {len(content['annotations'])} boxes")
    print(f"    coco:{output}@{images}")


def main() -> None:
    """Command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "places",
        type=Path,
        nargs="+",
        metavar="PLACE",
        help="data.yaml and a folder for the JSONs; or images, labels (same nesting) and a JSON",
    )
    parser.add_argument("--classes", type=Path, help="text file, one name a line, or data.yaml")
    options = parser.parse_args()
    if len(options.places) == 2 and options.places[0].suffix in (".yaml", ".yml"):
        data, folder = options.places
        classes = read_classes(options.classes or data)
        for split, images in splits_of(data).items():
            write(images, labels_beside(images), folder / f"{split}.json", classes)
    elif len(options.places) == 3 and options.classes:
        images, labels, output = options.places
        write(images, labels, output, read_classes(options.classes))
    else:
        parser.error("give data.yaml and a folder, or images, labels, a JSON and --classes")


if __name__ == "__main__":
    run_tool(main)
