"""One COCO JSON from a split in PASCAL VOC format, to be scored by the COCO rules.

    python datasets/voc_to_coco.py datasets/VOC2007 test voc_2007_test.json
    python datasets/voc_to_coco.py my_data train train.json       # classes from its XML files
    python datasets/voc_to_coco.py images_and_xml all all.json    # without lists of images

Objects marked difficult become crowds: they are neither trained on nor counted as missed.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, installed or not

from d2_unsupdet.cli import Parser, run_tool
from d2_unsupdet.data.readers.common import read_names
from d2_unsupdet.data.readers.voc import VocFolder, read_voc, voc_classes
from d2_unsupdet.errors import UserError


def convert(root: Path, split: str, classes: tuple[str, ...] | None = None) -> dict:
    """The content of the JSON; file names are relative to the folder of the images."""
    images, annotations = [], []
    classes = voc_classes(root) if classes is None else classes
    folder = VocFolder(root).images
    for number, record in enumerate(read_voc(root, split, classes), start=1):
        size = {"width": record["width"], "height": record["height"]}
        file_name = Path(record["file_name"]).relative_to(folder).as_posix()
        images.append({"id": number, "file_name": file_name, **size})
        for found in record["annotations"]:
            x0, y0, x1, y1 = found["bbox"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": found["category_id"] + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": found["difficult"],
                }
            )
    categories = [{"id": k, "name": name} for k, name in enumerate(classes, start=1)]
    return {"info": {}, "images": images, "categories": categories, "annotations": annotations}


def main() -> None:
    """Command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder in VOC's shape, or of images and XML files")
    parser.add_argument("split", help="name of the list in ImageSets/Main, or all")
    parser.add_argument("output", type=Path, help="the JSON to write")
    parser.add_argument(
        "--classes", type=Path, help="text file, one name a line; default: the folder's"
    )
    options = parser.parse_args()
    for place in VocFolder(options.root).needed(options.split):
        if not place.exists():
            raise UserError(f"{place} does not exist.")
    classes = None
    if options.classes:
        classes = tuple(read_names(options.classes))
    content = convert(options.root, options.split, classes)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(content))
    print(f"{len(content['images'])} images, {len(content['annotations'])} boxes")
    print(f"    coco:{options.output}@{VocFolder(options.root).images}")


if __name__ == "__main__":
    run_tool(main)
