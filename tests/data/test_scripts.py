"""The preparation scripts, on miniature data; what they write is read back."""

import json
import sys
import zlib
from pathlib import Path

import cv2
import pytest
import yaml
from detectron2.structures import BoxMode

from d2_unsupdet.data.catalog import class_names, get_dataset
from d2_unsupdet.errors import UserError
from tests.data.miniature import write_image, write_labelled


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
    with pytest.raises(UserError, match="lacks 1 listed classes, n99"):
        prepare.prepare(root / "imagenet", root / "x", ["n99"], None)
    with pytest.raises(UserError, match="--val-labels"):
        prepare.prepare(source, root / "y", None, None)


def test_the_list_of_imagenet100_is_the_published_one(script):
    listed = script("prepare_imagenet").read_classes(
        Path(__file__).parents[2] / "datasets/imagenet100_classes.txt"
    )
    assert len(set(listed)) == len(listed) == 100 and listed == sorted(listed)
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in listed)
    # Of all hundred in the order of their names: a changed digit changes it.
    assert zlib.crc32("\n".join(listed).encode()) == 519_077_928


def test_voc_becomes_coco(voc, script):
    content = script("voc_to_coco").convert(voc, "trainval")
    path = voc / "coco.json"
    path.write_text(json.dumps(content))
    records = get_dataset(f"coco:{path}@{voc}/JPEGImages")
    assert class_names(f"coco:{path}@{voc}/JPEGImages") == class_names("voc_2007_trainval")
    dog, person = records[0]["annotations"]
    assert (dog["bbox"], dog["category_id"], dog["iscrowd"]) == ([0, 0, 20, 10], 11, 0)
    assert (person["bbox"], person["iscrowd"]) == ([2, 3, 6, 6], 1)


def write_yolo(root):
    """Images of 40 x 20; the one in a folder of its own has a box, an outline, an empty line."""
    write_image(root / "images/train/a/one.jpg", 40, 20)
    write_image(root / "images/train/two.jpg", 40, 20)
    write_image(root / "images/val/three.jpg", 40, 20)
    (root / "labels/train/a").mkdir(parents=True)
    (root / "labels/val").mkdir()
    (root / "labels/train/a/one.txt").write_text("1 0.5 0.5 0.25 0.5\n\n0 0 0 0.5 0 0.5 1\n")
    (root / "labels/train/two.txt").touch()
    (root / "labels/val/three.txt").write_text("0 0.5 0.5 1 1\n")
    (root / "classes.txt").write_text("cat\r\ndog\r\n\r\n")
    return root


def run_script(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["script.py", *map(str, arguments)])
    module.main()


def test_yolo_becomes_coco(root, script, monkeypatch, capsys):
    write_yolo(root)
    yolo = script("yolo_to_coco")
    images, labels = root / "images/train", root / "labels/train"
    options = "--classes", root / "classes.txt"
    run_script(yolo, monkeypatch, images, labels, root / "new/coco.json", *options)
    name = f"coco:{root}/new/coco.json@{images}"
    said = "1 of 2 images have an empty label file\n2 images, 2 boxes\n"
    assert f"{said}    {name}\n" == capsys.readouterr().out
    (labels / "two.txt").rename(labels / "typo.txt")
    run_script(yolo, monkeypatch, images, labels, root / "new/other.json", *options)
    printed = capsys.readouterr().out
    assert "1 label files" in printed and "empty label file\n" not in printed
    assert "1 of 2 images have no label file and count as empty, two.jpg for one" in printed
    one, two = get_dataset(name)
    assert class_names(name) == ["cat", "dog"]
    assert [(a["category_id"], a["bbox"]) for a in one["annotations"]] == [
        (1, [15, 5, 10, 10]),
        (0, [0, 0, 20, 20]),
    ]
    assert one["annotations"][1]["segmentation"] == [[0, 0, 20, 0, 20, 20]]
    assert two["annotations"] == []
    written = json.loads((root / "new/coco.json").read_text())["annotations"]
    assert [a["area"] for a in written] == [100, 200]  # half of the square is inside the outline


@pytest.mark.parametrize(
    "names, ids",
    [(["cat", "dog"], (0, 1)), ({0: "cat", 1: "dog"}, (0, 1)), ({1: "a", 0: 7}, (0, 1))],
)
def test_a_data_yaml_says_splits_and_classes(root, script, monkeypatch, names, ids):
    write_yolo(root)
    content = {"path": "../gone", "train": "../images/train", "val": "images/val", "names": names}
    (root / "data.yaml").write_text(yaml.safe_dump({**content, "nc": 2}))
    run_script(script("yolo_to_coco"), monkeypatch, root / "data.yaml", root / "out")
    train = f"coco:{root}/out/train.json@{root}/images/train"
    val = f"coco:{root}/out/val.json@{root}/images/val"
    listed = dict(enumerate(names)) if isinstance(names, list) else names
    assert class_names([train, val]) == [str(listed[k]) for k in (0, 1)]
    content = json.loads((root / "out/train.json").read_text())
    assert [c["id"] for c in content["categories"]] == [0, 1]
    assert [len(r["annotations"]) for r in get_dataset(val)] == [1]


def test_holes_in_yolos_numbers_stay(root, script):
    write_yolo(root)
    yolo = script("yolo_to_coco")
    (root / "data.yaml").write_text("names: {1: dog, 0: cat, 7: cow}\n")
    classes = yolo.read_classes(root / "data.yaml")
    content = yolo.convert(root / "images/train", root / "labels/train", classes)
    assert [(c["id"], c["name"]) for c in content["categories"]] == [
        (0, "cat"), (1, "dog"), (7, "cow")
    ]  # fmt: skip
    assert [a["category_id"] for a in content["annotations"]] == [1, 0]


def test_what_is_wrong_with_yolo_labels_is_a_sentence(root, script, capsys):
    write_yolo(root)
    yolo = script("yolo_to_coco")
    for line, message in (
        ("2 0 0 1 1", "class 2, but the named classes are 0, 1"),
        ("x", "not numbers"),
        ("0 1 1", "2 numbers"),
        ("0 0.5 0.5 1 1 0.9", "5 numbers .* scores of predictions"),
        ("0 20 10 5 5", "fractions of the image"),
        ("0 nan 0.1 0.1 0.1", "fractions of the image"),
        ("0 0.5 0.5 -0.2 0.2", "negative size"),
    ):
        with pytest.raises(UserError, match=message):
            yolo.parse_line(line, 4, 4, {0: "a", 1: "b"}, "Line 1 of f.txt")
    classes = {0: "a", 1: "b"}
    with pytest.raises(UserError, match="nothing is labelled"):
        yolo.convert(root / "images/train", root / "labels/val", classes)
    with pytest.raises(UserError, match="There is no folder"):
        yolo.convert(root / "images/train", root / "labels/gone", classes)
    (root / "labels/train/none.txt").touch()
    yolo.convert(root / "images/train", root / "labels/train", classes)
    assert "1 label files" in capsys.readouterr().out
    for text, message in (
        ("train: images/gone\nnames: [a]\n", "no folder"),
        ("names: [a]\n", "names no folder of images"),
        ("train: [a, b]\n", "not one folder"),
        ("- a\n", "holds no keys"),
        ("names: [a\ntrain: b\n", "is no YAML in line 2: expected .* but got ':'"),
    ):
        (root / "data.yaml").write_text(text)
        with pytest.raises(UserError, match=message):
            yolo.splits_of(root / "data.yaml")
    (root / "data.yaml").write_text("names: dog\n")
    with pytest.raises(UserError, match="no list 'names'"):
        yolo.read_classes(root / "data.yaml")


def test_yolo_files_of_windows(root, script, capsys):
    """A mark at the beginning is no part of a class or a number; other encodings are a sentence."""
    write_yolo(root)
    yolo, folders = script("yolo_to_coco"), (root / "images/train", root / "labels/train")
    (root / "classes.txt").write_bytes("\ufeffKatze\r\nHündin\r\n".encode())
    classes = yolo.read_classes(root / "classes.txt")
    assert classes == {0: "Katze", 1: "Hündin"}
    (label,) = folders[1].glob("two.txt")
    label.write_bytes("\ufeff0 0.5 0.5 0.5 0.5\r\n\r\n1 0.5 0.5 0 0.2\r\n".encode())
    content = yolo.convert(*folders, classes)
    (two,) = [i["id"] for i in content["images"] if i["file_name"].startswith("two")]
    assert [a["category_id"] for a in content["annotations"] if a["image_id"] == two] == [0]
    assert f"1 box without area left out: Line 3 of {label}" in capsys.readouterr().out
    label.write_text("0 0.5 0.5 0.5 0.5\n0 0.5 b 0.2 0.2\n")
    with pytest.raises(UserError, match=f"Line 2 of {label} is not numbers.*or delete it"):
        yolo.convert(*folders, classes)
    label.write_bytes(b"0 0.5 0.5 0.5 0.5 \xff\n")
    with pytest.raises(UserError, match=f"{label} is no text in UTF-8 .byte 18.: save it as UTF-8"):
        yolo.convert(*folders, classes)


def test_the_example_says_the_same_in_every_format(root, script, monkeypatch):
    example = script("make_example")
    counts = "--unlabeled", 2, "--train", 3, "--val", 2
    run_script(example, monkeypatch, root / "example", *counts)
    assert len(get_dataset(f"folder:{root}/example/unlabeled")) == 2
    run_script(script("yolo_to_coco"), monkeypatch, root / "example/data.yaml", root / "yolo")
    shown = {}
    for split, count in (("train", 3), ("val", 2)):
        images = f"{root}/example/images/{split}"
        coco, voc, yolo = (
            f"coco:{root}/example/{split}.json@{images}",
            f"voc:{root}/example/voc@{split}",
            f"coco:{root}/yolo/{split}.json@{images}",
        )
        assert class_names(coco) == class_names(yolo)
        found = [boxes_by_name(name) for name in (coco, voc, yolo)]
        assert len(found[0]) == count and found[0] == found[1] == found[2]
        shown[split] = {name for image in found[0] for name, _ in image}
    assert class_names(voc) == sorted(shown["train"] | shown["val"])  # of all XML files
    with pytest.raises(UserError, match="not empty"):
        run_script(example, monkeypatch, root / "example", *counts)


def boxes_by_name(name):
    """(class, XYXY box) of each image, whatever its format."""
    names = class_names(name)
    return [
        [
            (
                names[a["category_id"]],
                [round(v, 2) for v in BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS)],
            )
            for a in record["annotations"]
        ]
        for record in get_dataset(name)
    ]


def test_voc_of_own_classes_becomes_coco(root, script, monkeypatch):
    write_labelled(root / "mine/a/x.png", "screw")
    run_script(script("voc_to_coco"), monkeypatch, root / "mine", "all", root / "out.json")
    name = f"coco:{root}/out.json@{root}/mine"
    assert class_names(name) == ["screw"] and len(get_dataset(name)[0]["annotations"]) == 1
    with pytest.raises(UserError, match=r"ImageSets/Main/val.txt does not exist"):
        run_script(script("voc_to_coco"), monkeypatch, root / "mine", "val", root / "out.json")


def test_cityscapes_script_is_idempotent(cityscapes, script):
    prepare = script("prepare_cityscapes").prepare
    assert prepare(cityscapes) == prepare(cityscapes) == 1
    (target,) = cityscapes.glob("gtFine/*/*/*labelTrainIds.png")
    assert cv2.imread(str(target), cv2.IMREAD_UNCHANGED)[3, 2] == 13
