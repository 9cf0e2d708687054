"""A few embedded scenes laid out as VOC, COCO, LVIS, Cityscapes and ImageNet, in real files."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import detection_utils
from detectron2.structures import BoxMode, PolygonMasks

from d2_unsupdet.data import get_dataset
from d2_unsupdet.data.readers.cityscapes import train_ids
from d2_unsupdet.data.readers.voc import VOC_CLASSES

CITYSCAPES_IDS = (24, 25, 26, 27, 28, 31, 32, 33)  # person .. bicycle in labelIds


def scenes(count: int = 4) -> list[dict]:
    return get_dataset("toy_val", subset=count)


def write_pretraining(root: Path) -> list[dict]:
    """COCO and ImageNet, what the papers pretrain on; the scenes in them."""
    records = scenes()
    write_coco(root, {"train2017": records[:2], "val2017": records[2:]})
    write_imagenet(root, records)
    return records


def write_voc(root: Path, folder: str, splits: dict[str, list[dict]]) -> None:
    for split, records in splits.items():
        lists = root / folder / "ImageSets/Main"
        for path in (lists, root / folder / "Annotations", root / folder / "JPEGImages"):
            path.mkdir(parents=True, exist_ok=True)
        names = []
        for record in records:
            name = f"{split}_{record['image_id']}"
            names.append(name)
            shutil.copy(record["file_name"], root / folder / "JPEGImages" / f"{name}.jpg")
            objects = "".join(_voc_object(a) for a in record["annotations"])
            size = (
                f"<size><width>{record['width']}</width><height>{record['height']}</height></size>"
            )
            xml = f"<annotation>{size}{objects}</annotation>"
            (root / folder / "Annotations" / f"{name}.xml").write_text(xml)
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")


def _voc_object(annotation: dict) -> str:
    x0, y0, x1, y1 = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    corners = f"<xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
    name = VOC_CLASSES[annotation["category_id"]]
    return f"<object><name>{name}</name><difficult>0</difficult><bndbox>{corners}</bndbox></object>"


def write_coco(root: Path, splits: dict[str, list[dict]]) -> None:
    """COCO 2017 with its 80 categories under their ids, which have holes."""
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    things = [c for c in COCO_CATEGORIES if c["isthing"]]
    (root / "coco/annotations").mkdir(parents=True)
    for split, records in splits.items():
        (root / f"coco/{split}").mkdir()
        content: dict = {
            "images": [],
            "annotations": [],
            "categories": [{"id": c["id"], "name": c["name"]} for c in things],
        }
        for record in records:
            file = f"{record['image_id']}.jpg"
            shutil.copy(record["file_name"], root / f"coco/{split}" / file)
            size = {key: record[key] for key in ("width", "height")}
            content["images"].append({"id": record["image_id"], "file_name": file, **size})
            for annotation in record["annotations"]:
                box = annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS
                x, y, w, h = map(float, BoxMode.convert(*box))
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": record["image_id"],
                        "category_id": things[annotation["category_id"]]["id"],
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "iscrowd": 0,
                        "segmentation": annotation["segmentation"],
                    }
                )
        path = root / f"coco/annotations/instances_{split}.json"
        path.write_text(json.dumps(content))


def write_lvis(root: Path, splits: dict[str, tuple[str, list[dict]]]) -> None:
    """LVIS v1 (`lvis/lvis_v1_train.json`) over the images of `write_coco`; splits of its folders.

    The eight shapes are the classes 1 to 8 of 1,203. Images have no file name but an address, and
    tell which classes were searched for.
    """
    from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

    (root / "lvis").mkdir()
    categories = [{"id": c["id"], "name": c["name"], "frequency": c["frequency"]}
                  for c in LVIS_CATEGORIES]  # fmt: skip
    for split, (folder, records) in splits.items():
        images: list[dict] = []
        annotations: list[dict] = []
        for record in records:
            seen = {a["category_id"] + 1 for a in record["annotations"]}
            images.append(
                {
                    "id": record["image_id"],
                    "coco_url": f"http://images.cocodataset.org/{folder}/{record['image_id']}.jpg",
                    "width": record["width"],
                    "height": record["height"],
                    "neg_category_ids": sorted(set(range(1, 9)) - seen),
                    "not_exhaustive_category_ids": [max(seen)],
                }
            )
            for annotation in record["annotations"]:
                box = annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS
                x, y, w, h = map(float, BoxMode.convert(*box))
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": record["image_id"],
                        "category_id": annotation["category_id"] + 1,
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "segmentation": annotation["segmentation"],
                    }
                )
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"lvis/lvis_v1_{split}.json").write_text(json.dumps(content))


def write_cityscapes(root: Path, splits: dict[str, list[dict]]) -> None:
    for split, records in splits.items():
        images = root / f"cityscapes/leftImg8bit/{split}/toytown"
        labels = root / f"cityscapes/gtFine/{split}/toytown"
        images.mkdir(parents=True), labels.mkdir(parents=True)
        for number, record in enumerate(records):
            stem = f"toytown_{number:06d}_000000"
            cv2.imwrite(str(images / f"{stem}_leftImg8bit.png"), cv2.imread(record["file_name"]))
            ids = np.full((record["height"], record["width"]), 7, np.uint16)  # road
            for place, annotation in enumerate(record["annotations"]):
                mask = detection_utils.BitMasks.from_polygon_masks(
                    PolygonMasks([annotation["segmentation"]]), *ids.shape
                )
                ids[mask.tensor[0].numpy()] = (
                    CITYSCAPES_IDS[annotation["category_id"]] * 1000 + place
                )
            kinds = np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
            maps = {"instanceIds": ids, "labelIds": kinds, "labelTrainIds": train_ids(kinds)}
            for name, values in maps.items():
                cv2.imwrite(str(labels / f"{stem}_gtFine_{name}.png"), values)


def write_imagenet(
    root: Path, records: list[dict], *, name: str = "imagenet", split: str = "train"
) -> None:
    for number, record in enumerate(records):
        folder = root / f"{name}/{split}/n{number % 2:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(record["file_name"], folder / f"{number}.JPEG")


def write_places365(root: Path, splits: dict[str, list[dict]]) -> None:
    """The official lists; validation images lie in one folder, and only numbers tell the class."""
    place, scenes_of = root / "places365", ("/a/airfield", "/b/bedroom", "/f/field/wild")
    place.mkdir()
    lines = "".join(f"{name} {number}\n" for number, name in enumerate(scenes_of))
    (place / "categories_places365.txt").write_text(lines)
    for split, records in splits.items():
        lines, folder = "", "data_256_standard" if split == "train" else "val_256"
        for number, record in enumerate(records):
            path = f"{scenes_of[number % 3]}/{number:08d}.jpg"
            if split == "val":
                path = f"Places365_val_{number + 1:08d}.jpg"
            lines += f"{path} {number % 3}\n"
            target = place / folder / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(record["file_name"], target)
        listed = "places365_train_standard.txt" if split == "train" else "places365_val.txt"
        (place / listed).write_text(lines)


def write_places205(root: Path, splits: dict[str, list[dict]]) -> None:
    """As the archives unpack."""
    images = root / "places205/data/vision/torralba/deeplearning/images256"
    lists = root / "places205/trainvalsplit_places205"
    lists.mkdir(parents=True)
    for split, records in splits.items():
        lines = ""
        for number, record in enumerate(records):
            path = f"{('a/abbey', 'r/rope_bridge')[number % 2]}/gsun_{split}_{number}.jpg"
            lines += f"{path} {number % 2}\n"
            (images / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(record["file_name"], images / path)
        (lists / f"{split}_places205.csv").write_text(lines)


def write_stuff27(root: Path, records: list[dict], split: str = "val2017") -> None:
    """COCO-Stuff's label maps beside `write_coco`'s images: shapes are things, the ground road."""
    folder = root / f"coco/stuffthingmaps/{split}"
    folder.mkdir(parents=True)
    for record in records:
        labels = cv2.imread(record["sem_seg_file_name"], cv2.IMREAD_GRAYSCALE)
        values = np.where(labels == 0, 148, 15 * (labels - 1)).astype(np.uint8)  # 0 to 105
        cv2.imwrite(str(folder / f"{record['image_id']}.png"), values)
