"""One COCO JSON from YOLO text labels.

    python datasets/yolo_to_coco.py images/train labels/train train.json --classes classes.txt

`labels/<name>.txt` holds lines `<class> <cx> <cy> <w> <h>` as fractions of the image, or
`<class> <x1> <y1> <x2> <y2> ...` for an outline. An image without a file has no objects.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, installed or not

from d2_unsupdet.data.images import image_size  # noqa: E402
from d2_unsupdet.data.readers import read_folder  # noqa: E402


def convert(images: Path, labels: Path, classes: list[str]) -> dict:
    """The content of the JSON; file names are relative to `images`."""
    listed, annotations = [], []
    for number, record in enumerate(read_folder(images), start=1):
        width, height = image_size(record["file_name"])
        file_name = record["image_id"]
        listed.append({"id": number, "file_name": file_name, "width": width, "height": height})
        text = labels / Path(file_name).with_suffix(".txt")
        for line in text.read_text().splitlines() if text.exists() else []:
            if line.strip():
                found = parse_line(line, width, height, len(classes), text)
                annotations.append({"id": len(annotations) + 1, "image_id": number, **found})
    categories = [{"id": k, "name": name} for k, name in enumerate(classes)]
    return {"info": {}, "images": listed, "categories": categories, "annotations": annotations}


def parse_line(line: str, width: int, height: int, classes: int, source: Path) -> dict:
    """One object in pixels."""
    try:
        label, *values = int(line.split()[0]), *map(float, line.split()[1:])
    except ValueError:
        raise SystemExit(f"{source} holds a line that is not numbers: {line!r}") from None
    if not 0 <= label < classes:
        raise SystemExit(f"{source} holds class {label}, but {classes} classes are named.")
    if len(values) == 4:
        cx, cy, w, h = values
        box = [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]
        outline = {}
    elif len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = [v * width for v in values[::2]], [v * height for v in values[1::2]]
        box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        outline = {"segmentation": [[v for xy in zip(xs, ys, strict=True) for v in xy]]}
    else:
        raise SystemExit(f"{source} holds a line of {len(values)} numbers after the class.")
    area = box[2] * box[3]
    return {"category_id": label, "bbox": box, "area": area, "iscrowd": 0, **outline}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path, help="folder of the images")
    parser.add_argument("labels", type=Path, help="folder of the text files, same nesting")
    parser.add_argument("output", type=Path, help="the JSON to write")
    parser.add_argument("--classes", type=Path, required=True, help="text file, one name a line")
    options = parser.parse_args()
    classes = [name for name in options.classes.read_text().splitlines() if name.strip()]
    content = convert(options.images, options.labels, classes)
    options.output.write_text(json.dumps(content))
    print(f"{len(content['images'])} images, {len(content['annotations'])} boxes")


if __name__ == "__main__":
    main()
