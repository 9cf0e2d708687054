"""Every format through its real files, and every wrong input through its sentence."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from pycocotools import mask as coco_mask

from d2_unsupdet.data import builtin, catalog, sources
from d2_unsupdet.data.catalog import check, class_names, get_dataset
from d2_unsupdet.errors import UserError
from tests.data.miniature import box, write_coco, write_image, write_labelled


@pytest.fixture(autouse=True)
def _registered():
    builtin.register_all()


@pytest.fixture
def warnings_said(monkeypatch):
    said = []
    for module in ("coco", "folder", "sem_seg", "stuff27"):
        monkeypatch.setattr(f"d2_unsupdet.data.readers.{module}.warn_once", said.append)
    monkeypatch.setattr(catalog, "warn_once", said.append)
    return said


def test_folder_takes_images_of_any_nesting_and_counts_the_rest(root, warnings_said):
    for name in ("b.JPG", "sub/deep/a.png", "sub/c.Tiff", ".hidden.jpg", ".git/x.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    (root / "notes.txt").write_text("x")
    (root / "elsewhere").symlink_to(root / "sub")
    records = get_dataset(f"folder:{root}")
    ids = [r["image_id"] for r in records]
    assert ids == [
        "b.JPG",
        "elsewhere/c.Tiff",
        "elsewhere/deep/a.png",
        "sub/c.Tiff",
        "sub/deep/a.png",
    ]
    assert records[0] == {"file_name": str(root / "b.JPG"), "image_id": "b.JPG"}
    assert warnings_said == [f"{root}: skipped 1 file that is not an image."]


def test_folder_link_to_itself_ends(root):
    write_image(root / "in" / "a.jpg")
    (root / "in" / "loop").symlink_to(root)
    (root / "in" / "self").symlink_to(root / "in")
    assert [r["image_id"] for r in get_dataset(f"folder:{root}/in")] == ["a.jpg"]


def test_folder_without_images_is_an_error(root):
    (root / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="holds no image .1 other file.*.jpg"):
        get_dataset(f"folder:{root}")


def test_sizes_only_when_asked_and_none_for_a_broken_file(root):
    write_image(root / "im" / "a.jpg", 31, 17)
    (root / "im" / "b.jpg").write_bytes(b"nonsense")
    good, bad = get_dataset(f"folder:{root}/im", sizes=True)
    assert (good["width"], good["height"]) == (31, 17)
    assert "width" not in bad


def test_coco_ids_with_holes_become_contiguous(root):
    json_file, images = write_coco(root)
    name = f"coco:{json_file}@{images}"
    records = get_dataset(name)
    assert [r["image_id"] for r in records] == [5, 12, 40]
    assert [a["category_id"] for a in records[1]["annotations"]] == [2, 0]
    assert records[1]["annotations"][0]["bbox"] == [1, 2, 3, 4]
    assert records[1]["annotations"][0]["bbox_mode"] == BoxMode.XYWH_ABS
    assert records[0]["file_name"] == str(images / "sub/b.jpg")
    assert class_names(name) == ["x", "y", "z"]
    meta = MetadataCatalog.get(name)
    assert meta.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1, 90: 2}
    assert (meta.json_file, meta.image_root) == (str(json_file), str(images))
    assert meta.evaluator_type == "coco"


@pytest.mark.parametrize("first", [0, 1])
def test_coco_ids_from_zero_and_from_one(root, first):
    categories = [{"id": first + k, "name": f"c{k}"} for k in range(3)]
    annotations = [box(k, 12, first + k, [0, 0, 2, 2]) for k in range(3)]
    json_file, images = write_coco(root, categories=categories, annotations=annotations)
    record = get_dataset(f"coco:{json_file}@{images}")[1]
    assert [a["category_id"] for a in record["annotations"]] == [0, 1, 2]


def test_coco_agrees_with_detectron2(root):
    from detectron2.data.datasets import load_coco_json

    mask = coco_mask.encode(np.asfortranarray(np.eye(10, 20, dtype=np.uint8)))
    mask["counts"] = mask["counts"].decode()
    raw = {"size": [10, 20], "counts": [0, 50, 150]}
    annotations = [
        box(1, 12, 90, [1, 2, 3, 4], segmentation=[[1, 2, 4, 2, 4, 6]], iscrowd=0),
        box(2, 12, 3, [0, 0, 5, 5], segmentation=mask, iscrowd=0, keypoints=[1, 2, 2, 0, 0, 0]),
        box(3, 40, 7, [0, 0, 5, 5], segmentation=raw, iscrowd=1),
    ]
    json_file, images = write_coco(root, annotations=annotations)
    theirs = load_coco_json(str(json_file), str(images), f"theirs_{root.name}")
    assert get_dataset(f"coco:{json_file}@{images}") == theirs


def test_coco_useless_boxes_are_left_out_and_counted(root, warnings_said):
    bad = [[0, 0, 0, 5], [0, 0, 5, -1], [20, 0, 5, 5], [-9, 0, 5, 5], [float("nan"), 0, 1, 1]]
    bad += [[], None, [1, 2, "x", 4], [1, 2, 3]]
    annotations = [box(k, 12, 3, b) for k, b in enumerate(bad)] + [box(9, 12, 3, [-2, -2, 5, 5])]
    annotations.append(box(10, 999, 3, [0, 0, 1, 1]))
    annotations.append(box(11, 12, 3, [0, 0, 4, 4], segmentation=[[1, 2, 3, 4]]))
    json_file, images = write_coco(root, annotations=annotations)
    record = get_dataset(f"coco:{json_file}@{images}")[1]
    assert [a["bbox"] for a in record["annotations"]] == [[-2, -2, 5, 5]]
    assert [w.split("left out ")[1] for w in warnings_said] == [
        "1 annotation of an unknown image.",
        "1 object with a broken mask.",
        "4 unreadable (not four numbers) boxes.",
        "5 zero-area or out-of-image boxes.",
    ]


def test_annotations_need_categories(root):
    json_file, images = write_coco(root)
    content = json.loads(json_file.read_text())
    json_file.write_text(json.dumps({k: v for k, v in content.items() if k != "categories"}))
    for ask in (get_dataset, class_names):
        with pytest.raises(UserError, match="has no 'categories': add"):
            ask(f"coco:{json_file}@{images}")


def test_only_relative_paths_have_a_root(tmp_path):
    with pytest.raises(UserError, match="a.json does not exist. Expected"):
        get_dataset(f"coco:{tmp_path}/a.json@{tmp_path}")
    with pytest.raises(UserError, match="does not exist .relative paths .* DETECTRON2_DATASETS"):
        get_dataset("coco:nowhere/a.json@nowhere")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b.jpg", "", 7, ".."])
def test_coco_file_names_stay_inside_the_folder(root, name):
    json_file, images = write_coco(root, images=[{"id": 1, "file_name": name}], annotations=[])
    with pytest.raises(UserError, match="not inside the image folder"):
        get_dataset(f"coco:{json_file}@{images}")


def test_coco_missing_size_is_read_from_the_file(root):
    write_image(root / "images" / "odd.png", 33, 11)
    listed = [{"id": 1, "file_name": "odd.png"}]
    json_file, images = write_coco(root, images=listed, annotations=[box(1, 1, 3, [32, 0, 9, 9])])
    (record,) = get_dataset(f"coco:{json_file}@{images}")
    assert (record["width"], record["height"], len(record["annotations"])) == (33, 11, 1)


def test_coco_without_annotations_has_no_labels(root):
    json_file, images = write_coco(root)
    content = json.loads(json_file.read_text())
    del content["annotations"], content["categories"]
    json_file.write_text(json.dumps(content))
    assert all("annotations" not in r for r in get_dataset(f"coco:{json_file}@{images}"))
    with pytest.raises(UserError, match="has no labels"):
        class_names(f"coco:{json_file}@{images}")


BROKEN_COCO = [
    ({"annotations": [box(1, 12, 4, [0, 0, 1, 1])]}, r"category 4.*ids 3, 7, 90"),
    ({"images": {}}, "no list 'images'"),
    ({"images": [{"file_name": "a.jpg"}]}, "image without an 'id'"),
    ({"images": [{"id": 1, "file_name": "a.jpg"}] * 2}, "two images with the id 1"),
    ({"categories": [{"id": 3}, {"id": 3}]}, "two categories with the same id"),
    ({"categories": [{"name": "x"}]}, "category without an integer 'id'"),
    ({"annotations": [{"id": 1}]}, "annotation without an 'image_id'"),
    ({"images": [{"id": 12, "file_name": "gone.jpg"}]}, "gone.jpg, which does not exist"),
]


@pytest.mark.parametrize(("changes", "message"), BROKEN_COCO)
def test_coco_broken_files_are_named(root, changes, message):
    json_file, images = write_coco(root, **changes)
    with pytest.raises(UserError, match=message) as caught:
        get_dataset(f"coco:{json_file}@{images}")
    assert str(json_file) in str(caught.value)


def test_coco_file_that_is_no_json(root):
    json_file, images = write_coco(root)
    json_file.write_text("{")
    with pytest.raises(UserError, match="Cannot read .* as JSON"):
        get_dataset(f"coco:{json_file}@{images}")


def test_voc_boxes_difficult_objects_and_missing_sizes(voc):
    first, second = get_dataset("voc_2007_trainval")
    assert (first["image_id"], first["width"], first["height"]) == ("000005", 20, 10)
    dog, person = first["annotations"]
    assert (dog["bbox"], dog["category_id"], dog["difficult"]) == ([0, 0, 20, 10], 11, 0)
    assert (person["bbox"], person["category_id"], person["difficult"]) == ([2, 3, 8, 9], 14, 1)
    assert (second["width"], second["height"]) == (20, 10)
    assert len(class_names("voc_2007_trainval")) == 20
    sources.register_voc("voc_easy", voc, "trainval", 2007, difficult=False)
    assert [len(r["annotations"]) for r in get_dataset("voc_easy")] == [1, 0]
    assert [r["image_id"] for r in get_dataset(f"voc:{voc}@dog_train")] == ["000005"]


def test_voc_metadata_serves_detectron2s_evaluator(voc):
    from detectron2.evaluation import PascalVOCDetectionEvaluator

    get_dataset("voc_2007_trainval")
    PascalVOCDetectionEvaluator("voc_2007_trainval")
    assert MetadataCatalog.get("voc_2007_trainval").dirname == str(voc)
    assert catalog.metadata(f"voc:{voc}@trainval").year == 2007


def test_voc_unknown_class_is_named(voc):
    path = voc / "Annotations" / "000005.xml"
    path.write_text(path.read_text().replace("dog", "dgo"))
    with pytest.raises(UserError, match="class 'dgo'.*Did you mean 'dog'"):
        get_dataset("voc_2007_trainval")


def test_voc_of_own_classes_takes_them_from_all_files(root, voc):
    own = voc.rename(root / "own")
    assert class_names(f"voc:{own}@trainval") == ["dog", "person"]
    assert class_names(f"voc:{own}@dog_train") == ["dog", "person"]  # every split has the same
    (own / "classes.txt").write_text("person\ncat\ndog\n")
    assert class_names(f"voc:{own}@trainval") == ["person", "cat", "dog"]
    records = get_dataset(f"voc:{own}@trainval")
    assert [a["category_id"] for a in records[0]["annotations"]] == [2, 0]
    (own / "classes.txt").write_text("cat\n")
    with pytest.raises(UserError, match=r"class 'dog', which .* A classes.txt in the folder"):
        get_dataset(f"voc:{own}@trainval")
    (own / "classes.txt").write_text("cat\ncat\n")
    with pytest.raises(UserError, match="one twice"):
        get_dataset(f"voc:{own}@trainval")


def test_images_and_xml_files_side_by_side_need_no_list(root):
    write_labelled(root / "mine/b/two.png", "nut")
    write_labelled(root / "mine/one.jpg", "screw", "bolt")
    one = root / "mine/one.xml"
    one.rename(root / "mine/label_1.xml")  # its filename tells the image
    text = (root / "mine/label_1.xml").read_text()
    named = text.replace("<size>", "<filename>C:\\shots\\one.jpg</filename><size>")
    (root / "mine/label_1.xml").write_text(named)
    name = f"voc:{root}/mine@all"
    assert class_names(name) == ["bolt", "nut", "screw"]
    found = {r["image_id"]: (r["file_name"], len(r["annotations"])) for r in get_dataset(name)}
    assert found == {
        "b/two": (f"{root}/mine/b/two.png", 1),
        "label_1": (f"{root}/mine/one.jpg", 2),
    }
    with pytest.raises(UserError, match="side by side, and the split 'all'"):
        get_dataset(f"voc:{root}/mine@train")
    (root / "none").mkdir()
    with pytest.raises(UserError, match="holds no XML file"):
        get_dataset(f"voc:{root}/none@all")


def test_how_classes_differ_is_said():
    apart = catalog.classes_apart
    assert apart(["a", "b"], ["b"]) == "only the first has 'a'"
    assert apart(["a"], ["a", *"bcde"]) == "only the second has 'b', 'c', 'd' ..."
    assert apart(["a", "x"], ["b", "x"]) == "only the first has 'a' and only the second has 'b'"
    assert apart(["a", "b"], ["b", "a"]) == "their order differs"


def test_several_names_are_joined_when_their_classes_agree(voc):
    os.rename(voc, voc.with_name("VOC2012"))
    records = get_dataset(f"voc_2012_trainval,voc:{voc.with_name('VOC2012')}@dog_train")
    assert [r["image_id"] for r in records] == ["000005", "000007", "000005"]
    assert records[2]["dataset_name"].endswith("@dog_train")
    assert len(get_dataset(["voc_2012_trainval"], subset=1)) == 1
    with pytest.raises(UserError, match="do not have the same classes"):
        class_names("voc_2012_trainval,toy_val")


def test_imagenet_labels_are_ranks_of_class_folders(root):
    for name in ("n02/b.JPEG", "n01/a.JPEG", "n02/a.JPEG"):
        write_image((root / "imagenet/train" / name).with_suffix(".jpg")).rename(
            root / "imagenet/train" / name
        )
    records = get_dataset("imagenet_train")
    assert [(r["image_id"], r["label"]) for r in records] == [
        ("n01/a.JPEG", 0), ("n02/a.JPEG", 1), ("n02/b.JPEG", 1)
    ]  # fmt: skip
    assert class_names("imagenet_train") == ["n01", "n02"]
    assert records == get_dataset(f"imagenet:{root}/imagenet/train")
    (root / "imagenet/val").mkdir()
    write_image(root / "imagenet/val/flat.jpg")
    with pytest.raises(UserError, match="prepare_imagenet.py"):
        get_dataset("imagenet_val")


def test_cityscapes_instances_from_label_pngs(cityscapes):
    (record,) = get_dataset("cityscapes_fine_instance_seg_val")
    assert (record["width"], record["height"]) == (16, 12)
    assert record["image_id"] == "aachen_000000_000019"
    names = [class_names("cityscapes_fine_instance_seg_val")[a["category_id"]]
             for a in record["annotations"]]  # fmt: skip
    assert names == ["rider", "person", "car"]
    rider, person, car = record["annotations"]
    assert [a["iscrowd"] for a in (rider, person, car)] == [1, 0, 0]
    assert (person["bbox"], car["bbox"]) == ([8, 6, 13, 11], [1, 2, 5, 6])
    rle = coco_mask.merge(coco_mask.frPyObjects(person["segmentation"], 12, 16))
    assert coco_mask.area(rle) == 24  # 25 pixels less the hole


def test_cityscapes_semantic_maps_need_the_script_once(cityscapes, script):
    with pytest.raises(UserError, match="prepare_cityscapes.py"):
        get_dataset("cityscapes_fine_sem_seg_val")
    assert script("prepare_cityscapes").prepare(cityscapes) == 1
    (record,) = get_dataset("cityscapes_fine_sem_seg_val")
    import cv2

    ids = cv2.imread(record["sem_seg_file_name"], cv2.IMREAD_UNCHANGED)
    assert set(np.unique(ids)) == {0, 11, 12, 13, 255}
    assert ids[3, 2] == 13 and ids[11, 0] == 255
    assert len(class_names("cityscapes_fine_sem_seg_val", "stuff")) == 19


def test_label_maps_pair_by_relative_path(root, warnings_said):
    for name in ("im/a/x.jpg", "im/b/x.jpg", "im/b/alone.jpg", "gt/a/x.png", "gt/b/x.png"):
        write_image(root / name)
    sources.register_sem_seg("paired", "im", "gt", ["sky", "road"])
    records = get_dataset("paired")
    assert [r["image_id"] for r in records] == ["a/x.jpg", "b/x.jpg"]
    assert records[1]["sem_seg_file_name"] == str(root / "gt/b/x.png")
    assert class_names("paired") == ["sky", "road"]
    assert "left out 1 image without a label map" in warnings_said[0]


def test_label_maps_are_a_name_with_listed_or_counted_classes(root, warnings_said):
    import cv2

    write_image(root / "im/a.jpg")
    labels = np.zeros((10, 20), np.uint8)
    labels[2, 3], labels[4, 5] = 4, 255
    (root / "gt").mkdir()
    cv2.imwrite(str(root / "gt/a.png"), labels)
    name = "sem_seg:gt@im"
    (record,) = get_dataset(name)
    assert record["sem_seg_file_name"] == str(root / "gt/a.png")
    assert class_names(name) == ["0", "1", "2", "3", "4"]
    assert "has no classes.txt" in warnings_said[-1] and "0 to 4" in warnings_said[-1]
    (root / "gt2").mkdir()
    cv2.imwrite(str(root / "gt2/a.png"), labels)
    (root / "gt2/classes.txt").write_text("sky\nroad\n\ntree\n")
    assert class_names("sem_seg:gt2@im") == ["sky", "road", "tree"]
    (root / "gt2/classes.txt").write_text("sky\nsky\n")
    sources.register_label_maps("twice", "gt2", "im")
    with pytest.raises(UserError, match="classes.txt must name each class once"):
        class_names("twice")
    (root / "gt3").mkdir()
    with pytest.raises(UserError, match="holds no label map with a class"):
        class_names("sem_seg:gt3@im")
    with pytest.raises(UserError, match="expected sem_seg:<folder of label maps>@"):
        check("sem_seg:gt")


def test_coco_stuff_27_takes_the_curated_list_or_all_images(root, warnings_said):
    for stem in ("000000000001", "000000000002"):
        for split in ("train", "val"):
            write_image(root / f"coco/{split}2017/{stem}.jpg")
    with pytest.raises(UserError, match="stuffthingmaps/val2017 does not exist"):
        check("coco_stuff27_val")
    assert "sem_seg_file_name" not in get_dataset("coco_stuff27_train")[0]  # none are needed
    write_image(root / "coco/stuffthingmaps/val2017/000000000002.png")
    assert len(get_dataset("coco_stuff27_val")) == 2
    assert "all 2 images" in warnings_said[-1] and "49,629" in warnings_said[-1]
    curated = root / "coco/curated/val2017/Coco164kFull_Stuff_Coarse_7.txt"
    curated.parent.mkdir(parents=True)
    curated.write_text("000000000002\n")
    (record,) = get_dataset("coco_stuff27_val")
    assert record["image_id"] == "000000000002.jpg"
    assert record["sem_seg_file_name"].endswith("stuffthingmaps/val2017/000000000002.png")
    assert len(class_names("coco_stuff27_val")) == 27


# Class, name, values in the label maps, as PiCIE's table has them.
PICIE_COCO = """
0 electronic 71-76
1 appliance 77-82
2 food-thing 51-60
3 furniture-thing 61-70
4 indoor 83-90
5 kitchen 43-50
6 accessory 25-32
7 animal 15-24
8 outdoor 9-14
9 person 0
10 sports 33-42
11 vehicle 1-8
12 ceiling 101,102
13 floor 100,113-117
14 food-stuff 120,121,152,169
15 furniture-stuff 97,106,107,109,111,122,129,132,155,160,164
16 raw-material 99,131,138,142
17 textile 91,92,103,104,108,130,136,140,151,166,167
18 wall 170-176
19 window 179,180
20 building 94,95,127,150,157,165
21 ground 110,124,125,135,139,143,144,146,148,153,158
22 plant 93,96,118,123,128,133,141,162,168
23 sky 105,156
24 solid 126,134,149,159,161,181
25 structural 98,112,137,145,163
26 water 119,147,154,177,178
"""
# Label id and name, as Cityscapes' own table has them.
CITYSCAPES_IDS = """
7 road, 8 sidewalk, 9 parking, 10 rail track, 11 building, 12 wall, 13 fence, 14 guard rail,
15 bridge, 16 tunnel, 17 pole, 18 polegroup, 19 traffic light, 20 traffic sign, 21 vegetation,
22 terrain, 23 sky, 24 person, 25 rider, 26 car, 27 truck, 28 bus, 29 caravan, 30 trailer,
31 train, 32 motorcycle, 33 bicycle
"""


def test_the_27_classes_of_coco_stuff_are_the_papers():
    """Each of the 182 values, against a table that the code does not read."""
    meta = MetadataCatalog.get("coco_stuff27_val")
    expected = [255] * 256
    for line in PICIE_COCO.split("\n")[1:-1]:
        number, name, parts = line.split()
        assert meta.stuff_classes[int(number)] == name
        for part in parts.split(","):
            low, _, high = part.partition("-")
            for value in range(int(low), int(high or low) + 1):
                assert expected[value] == 255, f"{value} is in two classes of the test's table"
                expected[value] = int(number)
    assert 255 not in expected[:182]
    assert list(meta.label_lookup) == expected and len(meta.stuff_classes) == 27
    # COCO's 91 things come before its 91 kinds of stuff, and so do their coarse classes.
    assert set(expected[:91]) == set(meta.thing_class_ids) == set(range(12))


def test_the_27_classes_of_cityscapes_are_its_label_ids():
    meta = MetadataCatalog.get("cityscapes27_val")
    expected = dict(entry.split(maxsplit=1) for entry in CITYSCAPES_IDS.strip().split(","))
    assert len(expected) == len(meta.stuff_classes) == 27
    found = {str(v): meta.stuff_classes[c] for v, c in enumerate(meta.label_lookup) if c != 255}
    assert found == {value: name.strip() for value, name in expected.items()}
    assert len(meta.label_lookup) == 256
    # What has instances; a caravan and a trailer too.
    things = [meta.stuff_classes[i] for i in meta.thing_class_ids]
    assert " ".join(things) == "person rider car truck bus caravan trailer train motorcycle bicycle"


def test_cityscapes_27_learns_from_other_frames_than_it_is_scored_on(cityscapes):
    stem = "berlin_000000_000019"
    for split in ("test", "train_extra", "train"):
        write_image(cityscapes / f"leftImg8bit/{split}/berlin/{stem}_leftImg8bit.png", 16, 12)
    with pytest.raises(UserError, match="gtFine/train does not exist"):
        check("cityscapes27_val")
    write_image(cityscapes / f"gtFine/train/berlin/{stem}_gtFine_labelIds.png", 16, 12)
    train, val = get_dataset("cityscapes27_train"), get_dataset("cityscapes27_val")
    assert [Path(r["file_name"]).parents[1].name for r in train] == ["test", "train_extra"]
    assert not any("sem_seg_file_name" in record for record in train)
    assert [Path(r["file_name"]).parents[1].name for r in val] == ["val", "train"]
    assert val[0]["sem_seg_file_name"].endswith("_gtFine_labelIds.png")


def test_root_is_read_when_asked(tmp_path, monkeypatch):
    for part in ("one", "two"):
        write_image(tmp_path / part / "coco/unlabeled2017" / f"{part}.jpg")
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / part))
        assert [r["image_id"] for r in get_dataset("coco_2017_unlabeled")] == [f"{part}.jpg"]
        assert str(tmp_path / part) in MetadataCatalog.get("coco_2017_unlabeled").image_root


def test_default_root_is_datasets_here(tmp_path, monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "datasets/coco/unlabeled2017/a.jpg")
    assert len(get_dataset("coco_2017_unlabeled")) == 1


def test_data_set_that_is_not_there_shows_its_layout(root):
    with pytest.raises(UserError) as caught:
        check("voc_2012_trainval")
    text = str(caught.value)
    assert "VOC2012" in text and f"DETECTRON2_DATASETS, now {root}" in text
    assert "ImageSets/Main/trainval.txt" in text and "JPEGImages" in text


def test_unknown_names_get_the_nearest_known_one(root):
    with pytest.raises(UserError, match="Did you mean 'coco_2017_train'"):
        check("coco_2017_trian")
    with pytest.raises(UserError, match="'folder:"):
        check(str(root))
    with pytest.raises(UserError, match="Known names: .*toy_train"):
        check("???")
    with pytest.raises(UserError, match="No data set is named by ''"):
        check("")
    with pytest.raises(UserError, match="expected coco:<annotations.json>@<image folder>"):
        check("coco:labels.json")


def test_registering_again_changes_nothing_and_something_else_replaces(root):
    write_image(root / "one/a.jpg")
    write_image(root / "two/b.jpg")
    sources.register_folder("mine", "one")
    MetadataCatalog.get("mine").note = "kept"
    sources.register_folder("mine", "one")
    assert MetadataCatalog.get("mine").note == "kept"
    sources.register_folder("mine", "two")
    assert [r["image_id"] for r in DatasetCatalog.get("mine")] == ["b.jpg"]


def test_detectron2s_other_names_stay():
    for name in ("keypoints_coco_2017_train", "lvis_v1_train", "coco_2017_val_panoptic"):
        assert name in DatasetCatalog
    assert len(class_names_without_files("coco_2017_val")) == 80


def class_names_without_files(name):
    return MetadataCatalog.get(name).thing_classes


def test_a_name_registered_by_the_user_works(root):
    DatasetCatalog.register("users_own", lambda: [{"file_name": "x", "image_id": 0}])
    try:
        assert get_dataset("users_own") == [{"file_name": "x", "image_id": 0}]
    finally:
        DatasetCatalog.remove("users_own")


def test_images_without_objects_can_be_left_out(root, warnings_said):
    json_file, images = write_coco(root)
    name = f"coco:{json_file}@{images}"
    assert [r["image_id"] for r in get_dataset(name, keep_empty=False)] == [12]
    assert "left out 2 images without objects" in warnings_said[-1]
    assert all("annotations" not in r for r in get_dataset(name, labels=False))
