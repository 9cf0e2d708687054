"""The preparation scripts, on miniature data; what they write is read back."""

import json

import cv2
import pytest

from d2_unsupdet.data.catalog import class_names, get_dataset
from tests.data.miniature import write_image


def test_imagenet_links_flat_validation_images_into_class_folders(root, script):
    prepare = script("prepare_imagenet")
    source = root / "raw"
    for name in ("train/n01/a", "train/n02/b", "train/n03/c", "val/v1", "val/v2"):
        write_image(source / f"{name}.jpg")
    (root / "xml").mkdir()
    for stem, name in (("v1", "n03"), ("v2", "n01")):
        text = f"<annotation><object><name>{name}</name></object></annotation>"
        (root / "xml" / f"{stem}.xml").write_text(text)
    for _ in range(2):  # again changes nothing
        counts = prepare.prepare(source, root / "imagenet", None, root / "xml")
    assert counts == {"train": 3, "val": 2}
    assert [r["image_id"] for r in get_dataset("imagenet_val")] == ["n01/v2.jpg", "n03/v1.jpg"]

    (root / "list.txt").write_text("n03 tench\n# remark\nn01\n")
    chosen = prepare.read_classes(root / "list.txt")
    prepare.prepare(root / "imagenet", root / "imagenet100", chosen, None)
    assert class_names("imagenet100_train") == ["n01", "n03"]
    (root / "labels.csv").write_text("v1.JPEG,n03 1 2 3 4\n")
    assert prepare.validation_classes(root / "labels.csv") == {"v1": "n03"}
    with pytest.raises(SystemExit, match="lacks 1 listed classes, n99"):
        prepare.prepare(root / "imagenet", root / "x", ["n99"], None)
    with pytest.raises(SystemExit, match="--val-labels"):
        prepare.prepare(source, root / "y", None, None)


def test_voc_becomes_coco(voc, script):
    content = script("voc_to_coco").convert(voc, "trainval")
    path = voc / "coco.json"
    path.write_text(json.dumps(content))
    records = get_dataset(f"coco:{path}@{voc}/JPEGImages")
    assert class_names(f"coco:{path}@{voc}/JPEGImages") == class_names("voc_2007_trainval")
    dog, person = records[0]["annotations"]
    assert (dog["bbox"], dog["category_id"], dog["iscrowd"]) == ([0, 0, 20, 10], 11, 0)
    assert (person["bbox"], person["iscrowd"]) == ([2, 3, 6, 6], 1)


def test_yolo_becomes_coco(root, script):
    write_image(root / "images/a/one.jpg", 40, 20)
    write_image(root / "images/two.jpg", 40, 20)
    (root / "labels/a").mkdir(parents=True)
    (root / "labels/a/one.txt").write_text("1 0.5 0.5 0.25 0.5\n\n0 0 0 0.5 0 0.5 1\n")
    yolo = script("yolo_to_coco")
    content = yolo.convert(root / "images", root / "labels", ["cat", "dog"])
    (root / "coco.json").write_text(json.dumps(content))
    one, two = get_dataset(f"coco:{root}/coco.json@{root}/images")
    assert [(a["category_id"], a["bbox"]) for a in one["annotations"]] == [
        (1, [15, 5, 10, 10]),
        (0, [0, 0, 20, 20]),
    ]
    assert one["annotations"][1]["segmentation"] == [[0, 0, 20, 0, 20, 20]]
    assert two["annotations"] == []
    for line, message in (("2 0 0 1 1", "class 2"), ("x", "not numbers"), ("0 1 2", "2 numbers")):
        with pytest.raises(SystemExit, match=message):
            yolo.parse_line(line, 4, 4, 2, root / "f.txt")


def test_cityscapes_script_is_idempotent(cityscapes, script):
    prepare = script("prepare_cityscapes").prepare
    assert prepare(cityscapes) == prepare(cityscapes) == 1
    (target,) = cityscapes.glob("gtFine/*/*/*labelTrainIds.png")
    assert cv2.imread(str(target), cv2.IMREAD_UNCHANGED)[3, 2] == 13
