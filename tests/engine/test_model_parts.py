"""A model that cannot be built is a sentence with the part and its values."""

from pathlib import Path

import pytest

from d2_unsupdet.engine.config import load_config
from d2_unsupdet.engine.model_parts import instantiate_model
from d2_unsupdet.engine.yaml_config import model_from_yaml
from d2_unsupdet.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    "file, override, sentence, cause",
    [
        (
            "finetune/coco/retinanet_r50_fpn_1x.py",
            "model.backbone.bottom_up.stages.depth=20",
            r"model.backbone.bottom_up.stages, make_default_stages\(depth=20, norm='\w+'\) cannot "
            r"be built: KeyError: 20; .*--debug",
            KeyError,
        ),
        (
            "finetune/toy/detr.py",
            "model.pixel_mean=rgb",
            r"model, DETR\(.*pixel_mean='rgb'.*\) cannot be built: ValueError: too many",
            ValueError,
        ),
    ],
)
def test_the_sentence_names_part_and_values(file, override, sentence, cause):
    cfg = load_config(str(CONFIGS / file), [override])
    for node in (cfg.model.get("heads"), cfg.model.get("head")):
        if node:
            node.num_classes = 4
    with pytest.raises(UserError, match=sentence) as raised:
        instantiate_model(cfg.model)
    assert isinstance(raised.value.__cause__, cause)


def test_a_shallow_resnet_in_yaml_needs_one_key():
    path = str(CONFIGS / "finetune/coco/detr_r50_150ep.yaml")
    cfg = load_config(path, ["MODEL.RESNETS.DEPTH", "18"])
    model = model_from_yaml(cfg.model.cfg_text)
    assert model.backbone.output_shape()["res5"].channels == 512
