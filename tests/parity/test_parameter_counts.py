"""Models with official head widths have exactly the parameters of the official ones."""

import pytest
from detectron2.config import LazyConfig, instantiate

from tests.checkpoint.test_detr_convert import CONFIGS

FROZEN = 222_400  # stem and res2
COUNTS = {  # trainable ones, counted on the official models with ResNet-50
    "detr": 41_302_368,
    "conditional_detr": 43_196_001,
    "deformable_detr_single_scale": 33_844_193,
    "deformable_detr": 39_847_265,
    "deformable_detr_refine": 40_627_260,
    "deformable_detr_two_stage": 40_959_129,
    "dab_deformable_detr": 47_183_594,
    "dn_dab_deformable_detr": 47_206_754,
    "deta": 48_216_089,
}


def counts(name, depth=50):
    model = LazyConfig.load(str(CONFIGS / f"{name}.py")).model
    model.heads.num_classes = 91
    model.backbone.stages.depth = depth
    if "proposals" in model:
        model.proposals.score_channels = 91
    built = instantiate(model)
    trainable = sum(p.numel() for p in built.parameters() if p.requires_grad)
    outside = sum(p.numel() for n, p in built.named_parameters() if not n.startswith("backbone."))
    return trainable, outside, built


@pytest.mark.parametrize("name", COUNTS)
def test_trainable_parameters(name):
    trainable, outside, built = counts(name)
    assert trainable == COUNTS[name]
    convolutions = [m.weight for m in built.backbone.modules() if hasattr(m, "stride")
                    and hasattr(m, "weight")]  # fmt: skip
    assert sum(w.numel() for w in convolutions) == trainable - outside + FROZEN


def test_a_deeper_backbone():
    trainable, outside, _ = counts("detr", depth=101)
    assert trainable == 60_242_272
    assert outside == 18_069_856
