"""What each architecture of the DETR family takes where a `MODEL.DETR` key is left at None.

The values are those of configs/common/models. A key that is not in an architecture's table has no
effect there, and setting it is an error.
"""

from types import SimpleNamespace
from typing import Any

from detectron2.config import CfgNode

from d2_unsupdet.errors import UserError, nearest

Table = dict[str, Any]

# Read for every architecture, and not None in the config.
COMMON = ("NUM_CLASSES", "MASK_PADDING", "SIZE_DIVISIBILITY", "DEEP_SUPERVISION")

DENSE: Table = {
    "IN_FEATURES": ["res5"],
    "HIDDEN_DIM": 256,
    "NHEADS": 8,
    "ENC_LAYERS": 6,
    "DEC_LAYERS": 6,
    "DIM_FEEDFORWARD": 2048,
    "DROPOUT": 0.1,
    "POSITION_EMBEDDING": "sine",
    "L1_WEIGHT": 5.0,
    "GIOU_WEIGHT": 2.0,
    "L1_COST": 5.0,
    "GIOU_COST": 2.0,
}
SOFTMAX: Table = {
    "PRE_NORM": False,
    "NUM_OBJECT_QUERIES": 100,
    "CLASS_WEIGHT": 1.0,
    "CLASS_COST": 1.0,
    "NO_OBJECT_WEIGHT": 0.1,
}
FOCAL: Table = {"NUM_OBJECT_QUERIES": 300, "CLASS_WEIGHT": 2.0, "CLASS_COST": 2.0}
DEFORMABLE: Table = {
    **DENSE,
    **FOCAL,
    "IN_FEATURES": ["res3", "res4", "res5"],
    "DIM_FEEDFORWARD": 1024,
    "LEVELS": 4,
    "POINTS": 4,
}
# DAB, DN-DAB and DETA: wider, without dropout, half the class weight, and the cost as before.
WIDE: Table = {**DEFORMABLE, "DIM_FEEDFORWARD": 2048, "DROPOUT": 0.0, "CLASS_WEIGHT": 1.0}
TWO_STAGE: Table = {
    "REFINE": True,
    "IGNORE_PADDING": True,
    "SCORE_CHANNELS": 1,
    "ANCHOR_SIZE": 0.05,
    "ANCHOR_GROWTH": 2.0,
}
ANCHORS: Table = {"REFINE": True, "PADDED_POSITION": True}
DENOISING: Table = {"DN_GROUPS": 5, "DN_LABEL_NOISE": 0.2, "DN_BOX_NOISE": 0.4}
OVERLAP: Table = {
    "LEVELS": 5,
    "NUM_OBJECT_QUERIES": 900,
    "ASSIGNER": "overlap",
    "IOU_THRESHOLD": 0.6,
    "POSITIVE_FRACTION": 0.25,
    "ENC_ASSIGNER": "overlap",
    "ENC_IOU_THRESHOLDS": [0.3, 0.7],
    "ENC_POSITIVE_FRACTION": 0.5,
    "ENC_BATCH_SIZE": 256,
    "QUERIES_PER_OBJECT": 4,
    "BALANCE": "count",
    "UNIQUE": True,
    "ZERO_OVERLAP": "ignore",
    "PROPOSAL_TOPK": 1000,
    "PROPOSAL_NMS_THRESH": 0.9,
    "TOPK_CANDIDATES_TEST": 10000,
    "NMS_THRESH_TEST": 0.7,
}

ARCHITECTURES: dict[str, Table] = {
    "DETR": {**DENSE, **SOFTMAX},
    "ConditionalDETR": {**DENSE, **FOCAL},
    "DeformableDETR": {**DEFORMABLE, "REFINE": False, "TWO_STAGE": False},
    "DABDeformableDETR": {**WIDE, **ANCHORS},
    "DNDABDeformableDETR": {**WIDE, **ANCHORS, **DENOISING},
    "DETA": {**WIDE, **TWO_STAGE, **OVERLAP},
}


def settings(cfg: CfgNode, name: str) -> SimpleNamespace:
    """The value of every key that architecture `name` reads."""
    if name not in ARCHITECTURES:
        raise UserError(f"'{name}' has no MODEL.DETR settings.{nearest(name, ARCHITECTURES)}")
    node = cfg.MODEL.DETR
    given = {k: v for k, v in node.items() if v is not None and k not in COMMON}
    known = ARCHITECTURES[name]
    if given.get("TWO_STAGE"):
        known = {**known, **TWO_STAGE}
    for key, value in given.items():
        if key not in known:
            raise UserError(f"MODEL.DETR.{key}={value!r} has no effect for {name}; leave it out.")
        _check_type(key, value, known[key])
    return SimpleNamespace(**{key: node[key] for key in COMMON}, **{**known, **given})


def _check_type(key: str, value: Any, default: Any) -> None:
    """None in the config takes any type, so Detectron2 does not look."""
    allowed: tuple[type, ...] = {float: (float, int), list: (list, tuple)}.get(
        type(default), (type(default),)
    )
    is_flag = isinstance(value, bool) and not isinstance(default, bool)
    if is_flag or not isinstance(value, allowed):
        raise UserError(
            f"MODEL.DETR.{key}={value!r} is not of the type of its default, {default!r}."
        )
