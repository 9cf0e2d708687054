"""The box pretexts from Detectron2's YAML: what configs/common/models says in Python."""

import inspect
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from d2_unsupdet.detectors.yaml_parts import parts_of
from d2_unsupdet.errors import UserError

SOFTMAX = ("UPDETR", "SiameseDETR")  # object against "no object" on every detector


def region_parts(cfg: CfgNode, method: type[nn.Module]) -> dict[str, Any]:
    """Constructor arguments of UP-DETR and Siamese DETR: all levels that the detector reads."""
    parts = box_parts(cfg, method)
    return {"levels": parts["detector"].in_features, **parts}


def box_parts(cfg: CfgNode, method: type[nn.Module]) -> dict[str, Any]:
    """The detector with one class, and the values of `MODEL.BOX_PRETEXT` that are set."""
    node, name = cfg.MODEL.BOX_PRETEXT, method.__name__
    softmax = name in SOFTMAX or node.DETECTOR == "DETR"
    parts = parts_of(cfg, node.DETECTOR, objects=True, softmax=softmax)
    if name == "UPDETR" and parts["proposals"] is not None:
        parts["proposals"].teaches_encoder = False  # random boxes say nothing about objectness
    given = {key.lower(): value for key, value in node.items() if value is not None}
    given.pop("detector")
    known = inspect.signature(method.__init__).parameters
    for key, value in given.items():
        if key not in known:
            raise UserError(
                f"MODEL.BOX_PRETEXT.{key.upper()}={value!r} has no effect for {name}; leave it out."
            )
    return {"detector": META_ARCH_REGISTRY.get(node.DETECTOR)(**parts), **given}
