"""Values that no model can have are a sentence before anything is built."""

from pathlib import Path

import pytest

from d2_unsupdet.engine.checks import prepare
from d2_unsupdet.engine.config import load_config
from d2_unsupdet.errors import UserError

TOY = Path(__file__).parents[2] / "configs/finetune/toy"
COCO = TOY.parent / "coco"


@pytest.fixture
def check(tmp_path):
    def run(file, *overrides):
        return prepare(load_config(str(file), [*overrides, f"train.output_dir={tmp_path}/run"]))

    return run


@pytest.mark.parametrize(
    "name, override, sentence",
    [
        ("detr", "model.decoder.num_layers=0", "decoder.num_layers=0 is out of .* at least 1"),
        ("detr", "model.query_source.num_queries=0", "num_queries=0 is out of .* at least 1"),
        ("deta", "model.proposals.num_proposals=0", "num_proposals=0 is out of .* at least 1"),
        ("deta", "model.proposals.num_proposals=1.5", "num_proposals=1.5 is not a whole number"),
        ("deta", "model.criterion.assigner.positive=2", "positive=2 is out of .* from 0 to 1"),
        ("deta", "model.criterion.assigner.positive=abc", "positive='abc' is not a number"),
        ("detr", "model.encoder.dropout=-0.1", "model.encoder.dropout=-0.1 is out of range"),
        ("detr", "model.criterion.weights.giou=-1", "model.criterion.weights.giou=-1 is out of"),
    ],
)
def test_nonsense_is_a_sentence(check, name, override, sentence):
    with pytest.raises(UserError, match=sentence):
        check(TOY / f"{name}.py", override)


@pytest.mark.parametrize("name", sorted(path.stem for path in TOY.glob("*.py")))
def test_the_recipes_pass(check, name):
    check(TOY / f"{name}.py")


def test_an_encoder_may_have_no_layers(check):
    check(TOY / "detr.py", "model.encoder.num_layers=0")


@pytest.mark.parametrize(
    "file, section",
    [
        ("retinanet_r50_fpn_1x.py", "model.backbone.bottom_up"),
        ("detr_r50_300ep.py", "model.backbone"),
    ],
)
def test_a_depth_that_no_resnet_has(check, file, section):
    names = [f"dataloader.{part}.dataset.names=toy_val" for part in ("train", "test")]
    with pytest.raises(UserError, match=f"{section}.stages.depth=20 is no ResNet here: .*18, 34"):
        check(COCO / file, f"{section}.stages.depth=20", *names)


@pytest.mark.parametrize(
    "override, sentence",
    [
        ("MODEL.RESNETS.DEPTH=20", "MODEL.RESNETS.DEPTH=20 is no ResNet here"),
        ("MODEL.DETR.NUM_OBJECT_QUERIES=0", "NUM_OBJECT_QUERIES=0 is out of range"),
        ("MODEL.DETR.IOU_THRESHOLD=2.0", "IOU_THRESHOLD=2.0 is out of range: .* from 0 to 1"),
    ],
)
def test_the_same_in_yaml(check, override, sentence):
    names = ["DATASETS.TRAIN=('toy_val',)", "DATASETS.TEST=('toy_val',)"]
    with pytest.raises(UserError, match=sentence):
        check(COCO / "deta_r50_12ep.yaml", override, *names)
