"""Pictures in the run folder: what a box pretext has to find, and answers that know no classes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from d2_unsupdet.engine import pictures as module
from d2_unsupdet.engine.pictures import SUREST, PicturesHook


@pytest.fixture
def hook(tmp_path):
    def make(**options):
        return PicturesHook(tmp_path, 2, **options)

    return make


def test_the_boxes_to_find_are_kept(hook, tmp_path):
    image = torch.full((3, 64, 64), 90, dtype=torch.uint8)
    boxes = torch.tensor([[2.0, 2, 20, 20]])
    dataset = {0: {"image": image, "priors": boxes, "file_name": "a/x.jpg"}}
    loader = SimpleNamespace(plan=[[0]], dataset=dataset)
    drawn = hook()
    drawn.trainer = SimpleNamespace(loader=loader)
    drawn.before_train()
    (entry,) = json.loads((tmp_path / "pictures/index.json").read_text())
    assert entry["group"] == "priors" and entry["caption"] == "x.jpg: boxes to find"
    assert (tmp_path / "pictures" / entry["file"]).is_file()


@pytest.mark.parametrize("agnostic", [True, False])
def test_answers_without_classes_are_the_surest_objects(hook, tmp_path, monkeypatch, agnostic):
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path)
    record = {"file_name": str(path), "image_id": 1, "height": 32, "width": 32}
    record["annotations"] = [{"bbox": [1, 1, 9, 9], "bbox_mode": 0, "category_id": 4}]
    count = SUREST + 5
    answer = Instances((32, 32), pred_boxes=Boxes(torch.rand(count, 4)), scores=torch.rand(count))
    answer.pred_classes = torch.zeros(count, dtype=torch.int64)
    given = {}

    def draw(image, real, predicted, names, threshold, top):
        given.update(classes=real.gt_classes.tolist(), names=list(names), top=top)

    monkeypatch.setattr(module, "draw_predictions", draw)
    evaluator = SimpleNamespace(class_agnostic=agnostic)
    drawn = hook(class_names=list("abcde"), evaluator=evaluator)
    drawn._picture(record, {}, {"instances": answer})
    wanted = ([0], ["object"], SUREST) if agnostic else ([4], list("abcde"), None)
    assert (given["classes"], given["names"], given["top"]) == wanted
