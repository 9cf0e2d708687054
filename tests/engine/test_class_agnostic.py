"""Detectors scored without classes: the labels of the test set do not decide the class count."""

from pathlib import Path

import pytest
from torch import nn

from d2_unsupdet.engine.checks import prepare
from d2_unsupdet.engine.config import load_config, to_plain
from d2_unsupdet.errors import UserError

TOY = Path(__file__).parents[2] / "configs/finetune/toy/detr.py"
AGNOSTIC = "dataloader.evaluator.class_agnostic=true"


class BoxPretext(nn.Module):
    """What a pretext over a detector looks like from outside."""

    def __init__(self, *, detector):
        super().__init__()
        self.detector = detector

    def export(self):
        return self.detector.state_dict()


def load(tmp_path, *overrides):
    options = ["dataloader.test.dataset.names=toy_val:images=4:size=64", *overrides]
    return load_config(str(TOY), [*options, f"train.output_dir={tmp_path / 'run'}"])


@pytest.fixture
def pretext(tmp_path):
    """A pretraining config with a labelled test set."""

    def make(*overrides):
        cfg = load(tmp_path, *overrides)
        cfg.model = {"_target_": BoxPretext, "detector": to_plain(cfg.model)}
        cfg.dataloader.train.dataset.labels = False
        return cfg

    return make


@pytest.mark.parametrize("eval_only", [True, False])
def test_a_pretext_has_one_class_on_data_of_five(pretext, eval_only):
    cfg = prepare(pretext(AGNOSTIC), eval_only=eval_only)
    assert cfg.model.detector.heads.num_classes == 1
    assert cfg.train.best_metric == "bbox_agnostic/AP"  # "bbox/AP" would keep no best weights


def test_the_metric_that_somebody_chose_stays(pretext):
    cfg = prepare(pretext(AGNOSTIC, "train.best_metric=bbox_agnostic/AR@10"))
    assert cfg.train.best_metric == "bbox_agnostic/AR@10"


def test_a_pretext_is_not_scored_by_class(pretext):
    with pytest.raises(UserError, match="evaluator.class_agnostic=true, or leave dataloader.test"):
        prepare(pretext())


def test_a_finetuned_detector_too_is_scored_without_classes(tmp_path):
    """Its classes are those of the data; another number is an error only where it is trained."""
    count = prepare(load(tmp_path, AGNOSTIC), eval_only=True).model.heads.num_classes
    assert count > 1
    one = load(tmp_path, AGNOSTIC, "model.heads.num_classes=1")
    assert prepare(one, eval_only=True).model.heads.num_classes == 1
    with pytest.raises(UserError, match="model.heads.num_classes=1 contradicts"):
        prepare(load(tmp_path, AGNOSTIC, "model.heads.num_classes=1"))
    said = "num_classes=1 contradicts.* same classes, or .*dataloader.evaluator.class_agnostic=true"
    with pytest.raises(UserError, match=said):
        prepare(load(tmp_path, "model.heads.num_classes=1"), eval_only=True)


def test_what_is_scored_needs_labels(pretext, tmp_path):
    names = "dataloader.test.dataset.names=toy_unlabeled:images=4:size=64"
    for eval_only in (True, False):
        with pytest.raises(UserError, match=f"{names} is scored and needs labels"):
            prepare(pretext(AGNOSTIC, names), eval_only=eval_only)
    with pytest.raises(UserError, match=f"{names} is scored and needs labels"):
        prepare(load(tmp_path, names), eval_only=True)
    with pytest.raises(UserError, match=f"{names} is scored and needs labels"):
        prepare(load(tmp_path, names))
