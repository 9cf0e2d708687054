"""One COCO JSON from a split in PASCAL VOC format, to be scored by the COCO rules.

    python datasets/voc_to_coco.py datasets/VOC2007 test voc_2007_test.json
    python datasets/voc_to_coco.py my_data train train.json --classes classes.txt

Objects marked difficult become crowds: they are neither trained on nor counted as missed.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, installed or not

from d2_unsupdet.data.readers.voc import VOC_CLASSES, read_voc  # noqa: E402


def convert(root: Path, split: str, classes: tuple[str, ...] = VOC_CLASSES) -> dict:
    """The content of the JSON; file names are relative to the folder JPEGImages."""
    images, annotations = [], []
    for number, record in enumerate(read_voc(root, split, classes), start=1):
        size = {"width": record["width"], "height": record["height"]}
        images.append({"id": number, "file_name": Path(record["file_name"]).name, **size})
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder with Annotations, ImageSets, JPEGImages")
    parser.add_argument("split", help="name of the list in ImageSets/Main")
    parser.add_argument("output", type=Path, help="the JSON to write")
    parser.add_argument("--classes", type=Path, help="text file, one name a line; default VOC's 20")
    options = parser.parse_args()
    lines = options.classes.read_text().splitlines() if options.classes else VOC_CLASSES
    classes = tuple(name.strip() for name in lines if name.strip())
    content = convert(options.root, options.split, classes)
    options.output.write_text(json.dumps(content))
    print(f"{len(content['images'])} images, {len(content['annotations'])} boxes")


if __name__ == "__main__":
    main()
