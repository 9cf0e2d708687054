"""What `train.freeze` names keeps every bit, statistics included; the rest learns."""

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from d2_unsupdet.engine.config import load_config, resolve_class_count
from d2_unsupdet.engine.freeze import NOTHING, freeze
from d2_unsupdet.errors import UserError
from tests.trainer_toys import Regression

TOY = Path(__file__).parents[2] / "configs/finetune/toy"
HEADS_ONLY = ["*", "!heads.*"]


class Normed(Regression):
    """A body with statistics and chance, and a head."""

    def __init__(self):
        super().__init__()
        body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.layers = nn.Sequential(body, nn.Linear(8, 1))


@pytest.mark.parametrize("patterns", [["layers.0.*"], ["*", "!layers.1.*"]])
def test_frozen_parts_keep_every_bit_through_training(make_trainer, patterns):
    model = Normed()
    frozen = freeze(model, patterns)
    assert list(frozen.parts) == ["layers.0"] and frozen.parameters == 4 * 8 + 8 + 8 + 8
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = make_trainer(model=model, frozen=frozen, length=3)
    trainer.train(0, 3)
    same = {name for name, value in model.state_dict().items() if value.equal(before[name])}
    assert same == {name for name in before if name.startswith("layers.0.")}


def test_without_freezing_statistics_and_body_move(make_trainer):
    model = Normed()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    make_trainer(model=model, frozen=freeze(model, []), length=3).train(0, 3)
    assert not any(value.equal(before[name]) for name, value in model.state_dict().items())


def test_dropout_is_off_in_what_is_frozen():
    model = Normed()
    frozen = freeze(model, ["layers.0.*"])
    model.train()
    frozen.hold()
    assert not any(m.training for m in model.layers[0].modules()) and model.layers[1].training


def test_the_last_pattern_that_fits_counts():
    model = Normed()
    freeze(model, ["*", "!layers.0.*", "*.0.1.*"])
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learns == {"layers.0.0.weight", "layers.0.0.bias"}


def test_single_tensors_leave_their_module_in_training():
    model = Normed()
    frozen = freeze(model, ["*.1.weight"])
    assert list(frozen.parts) == [] and frozen.parameters == 8 + 8
    assert str(frozen).startswith("single tensors")


def test_nothing_is_nothing():
    model = Normed()
    assert freeze(model, []) is NOTHING and all(p.requires_grad for p in model.parameters())
    assert freeze(model, ["*", "!*"]) is NOTHING and all(
        p.requires_grad for p in model.parameters()
    )


def test_a_name_that_fits_nothing_and_a_model_that_cannot_learn_are_sentences():
    with pytest.raises(UserError, match="no parameter's name fits 'encoder.*'; .* parts are layer"):
        freeze(Normed(), ["encoder.*"])
    with pytest.raises(UserError, match="freezes the whole model"):
        freeze(Normed(), ["*"])


def build(cfg):
    with torch.device("meta"):  # weights take no memory
        return instantiate(cfg.model)


@pytest.mark.parametrize("name", ["detr", "conditional_detr", "deformable_detr", "deta"])
def test_heads_only_transfer_trains_the_heads_of_every_detector(name):
    cfg = load_config(str(TOY / f"{name}.py"))
    resolve_class_count(cfg, ["a", "b"], "some")
    model = build(cfg)
    frozen = freeze(model, HEADS_ONLY)
    learns = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert learns == {"heads"}
    assert {"backbone", "neck", "encoder", "decoder"} <= set(frozen.parts)
    others = freeze(build(cfg), [*HEADS_ONLY, "!neck.*"])
    assert "neck" not in others.parts and others.parameters < frozen.parameters
