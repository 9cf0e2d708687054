"""Cityscapes' own scripts on a miniature Cityscapes: perfect answers, wrong ones, naive counts."""

import numpy as np
import pytest
import torch
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    SemSegEvaluator,
)
from detectron2.structures import Instances

from d2_unsupdet.data import get_dataset
from d2_unsupdet.data.images import read_label_map
from d2_unsupdet.data.readers.cityscapes import THING_LABELS
from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation import build_evaluator
from tests.configs import layouts

pytest.importorskip("cityscapesscripts", reason="the extra `cityscapes` is not installed")
OBJECTS = "cityscapes_fine_instance_seg_val"
PIXELS = "cityscapes_fine_sem_seg_val"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("cityscapes")
    layouts.write_cityscapes(path, {"val": layouts.scenes(3)})
    return path


@pytest.fixture(autouse=True)
def _here(root, monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())  # the scripts' own matches.json


def score(evaluator, answers):
    evaluator.reset()
    for record, output in answers:
        evaluator.process([record], [output])
    return evaluator.evaluate()


def objects(record, keep=lambda number: True):
    """What a perfect detector would say, from the files and not through our reader."""
    ids = read_label_map(
        record["file_name"]
        .replace("leftImg8bit/", "gtFine/")
        .replace("leftImg8bit", "gtFine_instanceIds")
    )
    numbers = [n for n in np.unique(ids) if n >= 1000 and keep(n)]
    found = Instances(ids.shape)
    found.pred_masks = torch.stack([torch.from_numpy(ids == n) for n in numbers])
    found.pred_classes = torch.tensor([THING_LABELS.index(n // 1000) for n in numbers])
    found.scores = torch.linspace(1, 0.5, len(numbers))
    return {"instances": found}


def test_perfect_objects_score_100_and_lost_ones_cost():
    evaluator, records = build_evaluator(OBJECTS), get_dataset(OBJECTS)
    assert isinstance(evaluator, CityscapesInstanceEvaluator)
    perfect = score(evaluator, [(r, objects(r)) for r in records])["segm"]
    assert perfect == pytest.approx({"AP": 100.0, "AP50": 100.0})
    first = [(r, objects(r, keep=lambda n: n % 1000 < 2)) for r in records]
    assert 0 < score(evaluator, first)["segm"]["AP50"] < 100


def strengths(classes):
    known = torch.as_tensor(classes).long().clamp(max=18)
    return {"sem_seg": torch.nn.functional.one_hot(known, 19).permute(2, 0, 1).float()}


def test_perfect_pixels_score_100():
    evaluator, records = build_evaluator(PIXELS), get_dataset(PIXELS)
    assert isinstance(evaluator, CityscapesSemSegEvaluator)
    answers = [(r, strengths(read_label_map(r["sem_seg_file_name"]))) for r in records]
    scores = score(evaluator, answers)["sem_seg"]
    assert scores["IoU"] == scores["IoU_sup"] == pytest.approx(100.0)


def test_their_mean_iou_is_detectron2s_on_the_training_ids():
    """One is read from labelIds, the other from the maps of datasets/prepare_cityscapes.py."""
    rng, answers = np.random.default_rng(0), []
    for record in get_dataset(PIXELS):
        labels = read_label_map(record["sem_seg_file_name"])
        wrong = rng.random(labels.shape) < 0.3
        answers.append(
            (record, strengths(np.where(wrong, rng.integers(0, 19, labels.shape), labels)))
        )
    official = score(build_evaluator(PIXELS), answers)["sem_seg"]
    ours = score(SemSegEvaluator(PIXELS, distributed=False), answers)["sem_seg"]
    assert 0 < official["IoU"] < 70
    assert official["IoU"] == pytest.approx(ours["mIoU"])


def test_what_ends_their_process_is_a_sentence_here(capsys):
    evaluator = build_evaluator(OBJECTS)
    with pytest.raises(UserError, match=r"Cityscapes' scripts stopped: .*toytown"):
        score(evaluator, [])  # an answer is missing for every image
    assert capsys.readouterr().out == ""
