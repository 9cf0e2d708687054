"""Training needs labels and objects, and says so before the first step."""

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from d2_unsupdet.data import DetectionMapper, get_dataset
from d2_unsupdet.engine.checks import prepare
from d2_unsupdet.engine.config import load_config
from d2_unsupdet.engine.objects import training_objects, warn_without_objects
from d2_unsupdet.errors import UserError

ROOT = Path(__file__).parents[2]
BOX = {"bbox": [1, 1, 5, 5], "iscrowd": 0}
MAPPER = DetectionMapper(is_train=True, augmentations=[], image_format="RGB")


def dataset(*annotations, **more):
    return SimpleNamespace(records=[{"annotations": a, **more} for a in annotations], mapper=MAPPER)


def test_objects_are_counted_without_crowds():
    assert training_objects(dataset([BOX, BOX], [], [{**BOX, "iscrowd": 1}, BOX]), "x") == 3


@pytest.mark.parametrize("annotations", [[], [{**BOX, "iscrowd": 1}]])
def test_no_object_at_all(annotations, caplog):
    empty = dataset(annotations, annotations)
    with pytest.raises(UserError, match="None of the 2 images of data set 'x' holds an object"):
        training_objects(empty, "x")
    warn_without_objects(empty, "x")
    assert "None of the 2 images of evaluation set 'x' holds an object" in caplog.text


def test_where_boxes_play_no_part():
    maps = [{"sem_seg_file_name": "a.png"}]
    assert training_objects(SimpleNamespace(records=maps, mapper=MAPPER), "x") is None
    assert (
        training_objects(SimpleNamespace(records=[{}], mapper=lambda record: record), "x") is None
    )


def test_an_evaluation_set_with_objects_is_no_matter(caplog):
    warn_without_objects(dataset([], [BOX]), "x")
    assert not caplog.text


@pytest.fixture
def coco(tmp_path):
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((20, 30, 3), np.uint8))
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 30, "height": 20}],
        "categories": [{"id": 1, "name": "bolt"}],
    }
    (tmp_path / "plain.json").write_text(json.dumps(content))
    return f"coco:{tmp_path / 'plain.json'}@{tmp_path}"


def test_a_coco_file_without_annotations_is_refused(coco):
    with pytest.raises(UserError, match="has images but no labels.*needs a list 'annotations'"):
        training_objects(SimpleNamespace(records=get_dataset(coco), mapper=MAPPER), coco)


def check(tmp_path, *overrides):
    config = str(ROOT / "configs/finetune/toy/detr.py")
    return prepare(load_config(config, [*overrides, f"train.output_dir={tmp_path}/run"]))


def test_new_data_to_train_on_need_new_data_to_score(coco, tmp_path):
    with pytest.raises(UserError, match=r"has 1 classes, dataloader.test.* set both to data of"):
        check(tmp_path, f"dataloader.train.dataset.names={coco}")
    with pytest.raises(UserError, match="evaluation set: .*need dataloader.test.dataset.names"):
        check(tmp_path, "dataloader.test.dataset.names=coco_2017_val")


def test_a_folder_of_images_has_no_classes(coco, tmp_path):
    names = [f"dataloader.{part}.dataset.names=folder:{tmp_path}" for part in ("train", "test")]
    with pytest.raises(UserError, match="This config needs labels: Data set 'folder:.*no labels"):
        check(tmp_path, *names)
