"""Places by its official lists and in class folders: labels, names, what is missing."""

import shutil

import pytest

from d2_unsupdet.data import get_dataset
from d2_unsupdet.data.catalog import class_names
from d2_unsupdet.errors import UserError
from tests.configs import layouts


@pytest.fixture
def root(tmp_path, monkeypatch):
    records = layouts.scenes(8)
    splits = {"train": records[:5], "val": records[5:]}
    layouts.write_places365(tmp_path, splits)
    layouts.write_places205(tmp_path, splits)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def test_official_lists(root):
    train, val = (get_dataset(f"places365_{split}") for split in ("train", "val"))
    assert [r["label"] for r in train] == [0, 1, 2, 0, 1]
    assert train[2]["image_id"] == "f/field/wild/00000002.jpg"
    assert [(r["label"], r["image_id"]) for r in val][1] == (1, "Places365_val_00000002.jpg")
    for split in ("train", "val"):
        assert class_names(f"places365_{split}") == ["airfield", "bedroom", "field/wild"]
    train, val = (get_dataset(f"places205_{split}") for split in ("train", "val"))
    assert [r["label"] for r in train] == [0, 1, 0, 1, 0] and len(val) == 3
    assert val[1]["image_id"] == "r/rope_bridge/gsun_val_1.jpg"
    assert (
        class_names("places205_val") == class_names("places205_train") == ["abbey", "rope_bridge"]
    )


def test_class_folders_are_read_where_there_are_no_lists(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    records = layouts.scenes(3)
    for split in ("train", "val"):
        layouts.write_imagenet(tmp_path, records, name="places365", split=split)
    assert [r["label"] for r in get_dataset("places365_val")] == [0, 0, 1]
    assert class_names("places365_train") == ["n00000000", "n00000001"]


def test_what_is_missing_or_wrong_is_said(root):
    listed = root / "places365/places365_val.txt"
    listed.write_text("Places365_val_00000001.jpg 3\n")
    with pytest.raises(UserError, match=r"the class 3, but there are 3"):
        get_dataset("places365_val")
    listed.write_text("Places365_val_00000001.jpg\n")
    with pytest.raises(UserError, match="expected <path> <label>"):
        get_dataset("places365_val")
    listed.write_text("../../secret.jpg 0\n")
    with pytest.raises(UserError, match="expected <path> <label>"):
        get_dataset("places365_val")
    shutil.rmtree(root / "places365/val_256")
    with pytest.raises(UserError, match=r"val_256 does not exist(.|\n)*official lists"):
        get_dataset("places365_val")
    (root / "places365/categories_places365.txt").unlink()
    with pytest.raises(UserError, match="categories_places365.txt does not exist"):
        get_dataset("places365_train")
    with pytest.raises(UserError, match=r"places205/train does not exist"):
        shutil.rmtree(root / "places205")
        (root / "places205").mkdir()
        get_dataset("places205_train")
