"""The DETR family from Detectron2's YAML is the model of configs/common/models, part by part."""

import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.engine import DefaultPredictor
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from d2_unsupdet.config import add_unsupdet_config
from d2_unsupdet.detectors import yaml_parts
from d2_unsupdet.detectors.yaml_settings import ARCHITECTURES, COMMON, TWO_STAGE
from d2_unsupdet.errors import UserError

MODELS = Path(__file__).parents[2] / "configs/common/models"
COARSEST = {"IN_FEATURES": ["res5"], "LEVELS": 1}
# File of configs/common/models: architecture, and the keys that make the variant.
TWINS: dict[str, tuple[str, dict[str, Any]]] = {
    "detr": ("DETR", {}),
    "conditional_detr": ("ConditionalDETR", {}),
    "deformable_detr": ("DeformableDETR", {}),
    "deformable_detr_single_scale": ("DeformableDETR", COARSEST),
    "deformable_detr_refine": ("DeformableDETR", {"REFINE": True}),
    "deformable_detr_two_stage": ("DeformableDETR", {"TWO_STAGE": True}),
    "dab_deformable_detr": ("DABDeformableDETR", {}),
    "dn_dab_deformable_detr": ("DNDABDeformableDETR", {}),
    "deta": ("DETA", {}),
}
SMALL = {"HIDDEN_DIM": 64, "NHEADS": 4, "ENC_LAYERS": 1, "DEC_LAYERS": 2, "DIM_FEEDFORWARD": 48}
QUERIES, CLASSES = 10, 3


def yaml_config(architecture: str, keys: dict[str, Any]) -> CfgNode:
    """ResNet-18: no default of the tables depends on the depth."""
    cfg = get_cfg()
    add_unsupdet_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = architecture, "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_detr_resnet_backbone"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    default = ARCHITECTURES[architecture]["IN_FEATURES"]
    cfg.MODEL.RESNETS.OUT_FEATURES = keys.get("IN_FEATURES", default)
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [123.675, 116.280, 103.530], [58.395, 57.12, 57.375]
    cfg.INPUT.FORMAT, cfg.MODEL.DETR.NUM_CLASSES = "RGB", CLASSES
    cfg.merge_from_list([x for k, v in keys.items() for x in (f"MODEL.DETR.{k}", v)])
    return cfg


def from_yaml(architecture: str, keys: dict[str, Any]) -> nn.Module:
    return META_ARCH_REGISTRY.get(architecture)(yaml_config(architecture, keys))


def lazy_config(name: str) -> Any:
    cfg = LazyConfig.load(str(MODELS / f"{name}.py")).model
    cfg.backbone.stages.depth = 18
    cfg.heads.num_classes = CLASSES
    return cfg


def small_lazy(name: str) -> nn.Module:
    cfg = lazy_config(name)
    cfg.encoder.dim, cfg.encoder.heads, cfg.encoder.ffn_dim = 64, 4, 48
    cfg.encoder.num_layers, cfg.decoder.num_layers = 1, 2
    if "proposals" in cfg:
        cfg.proposals.num_proposals = QUERIES
    else:
        cfg.query_source.num_queries = QUERIES
    return instantiate(cfg)


def dump(thing: Any) -> Any:
    """Everything plain that a model holds, and the kinds and shapes of the rest."""
    if isinstance(thing, torch.Tensor):
        return tuple(thing.shape), str(thing.dtype), thing.requires_grad
    if isinstance(thing, Mapping):
        return {key: dump(value) for key, value in thing.items()}
    if isinstance(thing, Sequence) and not isinstance(thing, str):
        return [dump(value) for value in thing]
    if isinstance(thing, nn.Module) or type(thing).__module__.startswith("d2_unsupdet"):
        plain = {k: dump(v) for k, v in vars(thing).items() if "hooks" not in k}
        return type(thing).__name__, plain
    if isinstance(thing, Matcher):
        return dump(vars(thing))
    if isinstance(thing, types.FunctionType):
        return thing.__qualname__
    assert thing is None or isinstance(thing, bool | int | float | str | set), type(thing)
    return thing


def batch() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    samples = []
    for height, width in ((64, 96), (80, 64)):
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.tensor([[4.0, 6.0, 40.0, 50.0], [20.0, 10.0, 60.0, 60.0]]))
        instances.gt_classes = torch.tensor([0, 2])
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        samples.append({"image": image, "instances": instances, "height": 99, "width": 77})
    return samples


@pytest.mark.parametrize("name", TWINS)
def test_defaults_are_those_of_the_lazy_config(name):
    architecture, keys = TWINS[name]
    with torch.device("meta"):
        lazy, yaml = instantiate(lazy_config(name)), from_yaml(architecture, keys)
    assert type(lazy) is type(yaml)
    assert {k: v.shape for k, v in lazy.state_dict().items()} == {
        k: v.shape for k, v in yaml.state_dict().items()
    }
    assert dump(lazy) == dump(yaml)


@pytest.mark.parametrize("name", TWINS)
def test_one_seed_gives_one_model(name):
    """Initial values too, which no attribute tells; then losses and detections."""
    architecture, keys = TWINS[name]
    models = []
    for build in (
        lambda: small_lazy(name),
        lambda: from_yaml(architecture, {**SMALL, "NUM_OBJECT_QUERIES": QUERIES, **keys}),
    ):
        torch.manual_seed(3)
        models.append(build())
    first, second = (dict(m.named_buffers()) | dict(m.named_parameters()) for m in models)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    results = []
    for model in models:
        torch.manual_seed(5)
        with EventStorage():
            losses = model.train()(batch())
        with torch.no_grad():
            found = [x["instances"] for x in model.eval()(batch())]
        results.append((losses, found))
    (losses, found), (twin_losses, twin_found) = results
    assert losses.keys() == twin_losses.keys()
    assert all(torch.equal(losses[key], twin_losses[key]) for key in losses)
    for one, other in zip(found, twin_found, strict=True):
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)


def another(value: Any) -> Any:
    if isinstance(value, str):
        others = {"overlap": "hungarian", "sine": "learned", "count": "dynamic"}
        return (others | {"ignore": "original"})[value]
    if isinstance(value, list):
        return ["res4", "res5"] if isinstance(value[0], str) else [0.2, 0.8]
    return not value if isinstance(value, bool) else value * 2 or 0.3


@pytest.mark.parametrize(
    "name", ["detr", "deformable_detr_two_stage", "dn_dab_deformable_detr", "deta"]
)
def test_every_key_reaches_a_part(name, monkeypatch):
    architecture, keys = TWINS[name]
    base = {**SMALL, **keys}
    table = {**ARCHITECTURES[architecture], **(TWO_STAGE if keys else {}), **base}
    table |= {"SIZE_DIVISIBILITY": 8, "DEEP_SUPERVISION": True}
    if name == "detr":
        del table["IN_FEATURES"]  # one level
    with torch.device("meta"):
        backbone = build_backbone(yaml_config(architecture, keys))
        monkeypatch.setattr(yaml_parts, "build_backbone", lambda cfg: backbone)
        plain = dump(from_yaml(architecture, base))
        for key, value in table.items():
            # The costs are the Hungarian assigner's.
            costs = {"ASSIGNER": "hungarian"} if name == "deta" and "COST" in key else {}
            reference = dump(from_yaml(architecture, {**base, **costs})) if costs else plain
            changed = from_yaml(architecture, {**base, **costs, key: another(value)})
            assert dump(changed) != reference, key


def test_tables_and_config_have_the_same_keys():
    cfg = get_cfg()
    add_unsupdet_config(cfg)
    known = {key for table in (*ARCHITECTURES.values(), TWO_STAGE) for key in table}
    assert known | set(COMMON) == set(cfg.MODEL.DETR)
    assert {k for k, v in cfg.MODEL.DETR.items() if v is not None} == set(COMMON)


@pytest.mark.parametrize(
    "architecture, keys, message",
    [
        ("DETR", {"REFINE": True}, "REFINE=True has no effect for DETR; leave it out"),
        ("DeformableDETR", {"IGNORE_PADDING": False}, "IGNORE_PADDING=False has no effect for Def"),
        ("DETR", {"DROPOUT": "much"}, "DROPOUT='much' is not of the type of its default, 0.1"),
        ("DETR", {"NHEADS": True}, "NHEADS=True is not of the type of its default, 8"),
        ("DETA", {"ENC_ASSIGNER": "nearest"}, "ENC_ASSIGNER='nearest' is not one of overlap, hung"),
        ("DETR", {"POSITION_EMBEDDING": "cosine"}, "'cosine' is not one of sine, learned"),
    ],
)
def test_wrong_keys_are_sentences(architecture, keys, message):
    with torch.device("meta"), pytest.raises(UserError, match=rf"MODEL\.DETR\..*{message}"):
        from_yaml(architecture, keys)


def test_a_map_that_the_backbone_does_not_give_is_a_sentence():
    cfg = yaml_config("DeformableDETR", {})
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]
    with torch.device("meta"), pytest.raises(UserError, match="asks for res3, res5, the backbone "):
        META_ARCH_REGISTRY.get("DeformableDETR")(cfg)


@pytest.mark.parametrize("dilation", [1, 2])
def test_the_backbone_s_keys_and_dc5(dilation):
    cfg = yaml_config("DETR", {"MASK_PADDING": True})
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 50, 256
    cfg.MODEL.RESNETS.RES5_DILATION = dilation
    lazy = lazy_config("detr")
    lazy.backbone.stages.depth, lazy.backbone.mask_padding = 50, True
    lazy.backbone.stages.dilated = dilation == 2
    with torch.device("meta"):
        assert dump(build_backbone(cfg)) == dump(instantiate(lazy.backbone))
        cfg.MODEL.RESNETS.NUM_GROUPS = 32
        if dilation == 2:
            with pytest.raises(UserError, match="DC5 is not built for MODEL.RESNETS.NUM_GROUPS=32"):
                build_backbone(cfg)
        else:
            assert build_backbone(cfg).res5[0].conv2.groups == 32


def test_another_backbone_of_detectron2():
    """An FPN, whose maps have other names and channels."""
    cfg = yaml_config("DeformableDETR", {**SMALL, "IN_FEATURES": ["p3", "p4", "p5"]})
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 40
    model = META_ARCH_REGISTRY.get("DeformableDETR")(cfg)
    assert [level.conv.in_channels for level in model.neck.levels] == [40, 40, 40, 40]
    with EventStorage():
        assert torch.isfinite(sum(model(batch()).values()))


@pytest.mark.parametrize("name", ["detr", "deta"])
def test_default_predictor(name):
    architecture, keys = TWINS[name]
    cfg = yaml_config(architecture, {**SMALL, "NUM_OBJECT_QUERIES": QUERIES, **keys})
    cfg.INPUT.MIN_SIZE_TEST, cfg.MODEL.WEIGHTS = 64, ""
    found = DefaultPredictor(cfg)(np.zeros((90, 120, 3), np.uint8))["instances"]
    assert found.image_size == (90, 120) and len(found)
    assert set(found.get_fields()) == {"pred_boxes", "scores", "pred_classes"}
