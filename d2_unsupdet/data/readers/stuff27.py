"""The 27 classes of PiCIE (arXiv:2103.17070) on COCO-Stuff and on Cityscapes.

COCO's label maps count 0 to 181 and become 12 things and 15 kinds of stuff; Cityscapes' label ids 7
to 33 are taken as they are. Neither is the classes of the supervised benchmarks.
"""

import os
from pathlib import Path

from d2_unsupdet.data.readers.cityscapes import IGNORE, cityscapes_files
from d2_unsupdet.data.readers.common import count_text, first_must_exist, read_text, warn_once
from d2_unsupdet.data.readers.folder import image_files
from d2_unsupdet.errors import UserError

# class -> values of the label maps; things first
COCO27 = {
    "electronic": range(71, 77),
    "appliance": range(77, 83),
    "food-thing": range(51, 61),
    "furniture-thing": range(61, 71),
    "indoor": range(83, 91),
    "kitchen": range(43, 51),
    "accessory": range(25, 33),
    "animal": range(15, 25),
    "outdoor": range(9, 15),
    "person": (0,),
    "sports": range(33, 43),
    "vehicle": range(1, 9),
    "ceiling": (101, 102),
    "floor": (100, *range(113, 118)),
    "food-stuff": (120, 121, 152, 169),
    "furniture-stuff": (97, 106, 107, 109, 111, 122, 129, 132, 155, 160, 164),
    "raw-material": (99, 131, 138, 142),
    "textile": (91, 92, 103, 104, 108, 130, 136, 140, 151, 166, 167),
    "wall": range(170, 177),
    "window": (179, 180),
    "building": (94, 95, 127, 150, 157, 165),
    "ground": (110, 124, 125, 135, 139, 143, 144, 146, 148, 153, 158),
    "plant": (93, 96, 118, 123, 128, 133, 141, 162, 168),
    "sky": (105, 156),
    "solid": (126, 134, 149, 159, 161, 181),
    "structural": (98, 112, 137, 145, 163),
    "water": (119, 147, 154, 177, 178),
}
COCO27_THINGS = tuple(range(12))
CITYSCAPES27 = (
    "road", "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail",
    "bridge", "tunnel", "pole", "polegroup", "traffic light", "traffic sign", "vegetation",
    "terrain", "sky", "person", "rider", "car", "truck", "bus", "caravan", "trailer", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
CITYSCAPES27_THINGS = tuple(range(17, 27))  # person to bicycle: what has instances
CURATED = "Coco164kFull_Stuff_Coarse_7.txt"


def coco27_lookup() -> list[int]:
    """Value in a label map -> one of 27 classes, 255 for void."""
    table = [IGNORE] * 256
    for number, values in enumerate(COCO27.values()):
        for value in values:
            table[value] = number
    return table


def cityscapes27_lookup() -> list[int]:
    """Label id -> one of 27 classes, 255 for the rest."""
    return [value - 7 if 7 <= value <= 33 else IGNORE for value in range(256)]


def read_coco27(image_root: Path, label_root: Path, curated: Path) -> list[dict]:
    """Records of the curated list, or of all images if that is not there.

    Label maps are named where their folder is there: without labels nobody needs it.

    Args:
        image_root: `train2017` or `val2017`.
        label_root: the label maps, PNG files of the same names.
        curated: PiCIE's list, one image name a line.
    """
    if curated.exists():
        stems = [Path(line).stem for line in read_text(curated).split()]
        images = [f"{stem}.jpg" for stem in stems]
    else:
        images = sorted(image_files(image_root, []))
        warn_once(
            f"{curated} is not there, so all {count_text(len(images), 'image')} of {image_root} "
            "are used; published numbers use that list (49,629 for training, 2,175 to evaluate)."
        )
    if not images:
        raise UserError(f"{curated if curated.exists() else image_root} names no image.")
    records = [{"file_name": os.path.join(image_root, x), "image_id": x} for x in images]
    first_must_exist(records, curated)
    if label_root.exists():
        for record in records:
            name = Path(record["image_id"]).with_suffix(".png")
            record["sem_seg_file_name"] = os.path.join(label_root, name)
    return records


def read_cityscapes27(image_dirs: list[Path], label_dirs: list[Path] | None) -> list[dict]:
    """Records of several splits; `*_gtFine_labelIds.png` where label folders are given."""
    records = []
    for number, images in enumerate(image_dirs):
        labels = label_dirs[number] if label_dirs else images
        for image, label in cityscapes_files(images, labels, "labelIds.png"):
            stem = Path(image).stem.replace("_leftImg8bit", "")
            record = {"file_name": image, "image_id": stem}
            records.append({**record, "sem_seg_file_name": label} if label_dirs else record)
    if label_dirs and not os.path.exists(records[0]["sem_seg_file_name"]):
        raise UserError(f"The label map {records[0]['sem_seg_file_name']} does not exist.")
    return records
