"""LVIS v1 through its real files: paths from addresses, 1,203 classes, the searched ones kept."""

import json

import pytest
from detectron2.data import MetadataCatalog

from d2_unsupdet.data import builtin
from d2_unsupdet.data.catalog import class_names, get_dataset
from d2_unsupdet.errors import UserError
from tests.configs import layouts


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    builtin.register_all()
    root = tmp_path_factory.mktemp("lvis")
    records = layouts.scenes()
    layouts.write_coco(root, {"train2017": records[:2], "val2017": records[2:]})
    # LVIS's validation set holds images of COCO's training set too
    layouts.write_lvis(root, {"train": ("train2017", records[:2]), "val": ("val2017", records[2:])})
    return root, records


def test_the_built_in_names(data, monkeypatch):
    root, scenes = data
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    first = get_dataset("lvis_v1_train")[0]
    scene = min(scenes[:2], key=lambda s: s["image_id"])
    assert first["file_name"] == str(root / f"coco/train2017/{scene['image_id']}.jpg")
    labels = [a["category_id"] for a in scene["annotations"]]
    assert [a["category_id"] for a in first["annotations"]] == labels
    assert first["not_exhaustive_category_ids"] == [max(labels) + 1]
    assert set(first["neg_category_ids"]) == set(range(1, 9)) - {label + 1 for label in labels}
    assert len(class_names("lvis_v1_val")) == 1203
    assert MetadataCatalog.get("lvis_v1_val").evaluator_type == "lvis"


def test_a_path_is_a_name_and_the_class_names_are_those_of_the_file(data):
    root, _ = data
    name = f"lvis:{root}/lvis/lvis_v1_val.json@{root}/coco"
    assert len(get_dataset(name)) == 2
    assert len(class_names(name)) == 1203
    assert MetadataCatalog.get(name).evaluator_type == "lvis"


def test_a_file_with_other_classes_is_not_taken_for_lvis_v1(data, tmp_path, monkeypatch):
    root, _ = data
    content = json.loads((root / "lvis/lvis_v1_val.json").read_text())
    content["categories"] = content["categories"][:8]
    (tmp_path / "lvis").mkdir()
    (tmp_path / "coco").symlink_to(root / "coco")
    (tmp_path / "lvis/lvis_v1_val.json").write_text(json.dumps(content))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(UserError, match="lists 8 classes where LVIS v1 has 1203"):
        get_dataset("lvis_v1_val")


@pytest.mark.parametrize("address", ["", "http://x/../../etc/passwd/..", None])
def test_an_address_stays_inside_the_folder(data, tmp_path, address):
    content = {"images": [{"id": 1, "coco_url": address}], "annotations": [], "categories": []}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(UserError):
        get_dataset(f"lvis:{tmp_path}/a.json@{tmp_path}")
