"""LVIS v1: COCO's form with 1,203 classes, of which each image was searched for a few only.

`neg_category_ids` were searched for and not found; `not_exhaustive_category_ids` were found, but
not each of them was outlined. Both are the file's own ids, as in Detectron2's records.
"""

from pathlib import Path

from d2_unsupdet.data.readers.coco import coco_categories, read_coco
from d2_unsupdet.errors import UserError

SEARCHED = ("neg_category_ids", "not_exhaustive_category_ids")


def read_lvis(json_file: Path, image_root: Path, classes: int | None = None) -> list[dict]:
    """Records as of COCO; images lie in the folder that their address names (`train2017/...`).

    Args:
        json_file: the annotations.
        image_root: the folder with `train2017` and `val2017`.
        classes: how many the file must list, if that is known; labels are ranks of ids.
    """
    records = read_coco(json_file, image_root, extra=SEARCHED)
    found = len(coco_categories(json_file).ids)
    if classes is not None and found != classes:
        raise UserError(
            f"{json_file} lists {found} classes where LVIS v1 has {classes}; a file with other "
            f"classes is named lvis:{json_file}@{image_root}."
        )
    return records
