"""Values of our detectors' parts that no model can have, said before anything is built."""

from collections.abc import Mapping
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf

from d2_unsupdet.engine.config import nodes
from d2_unsupdet.engine.values import INFINITY, check_value
from d2_unsupdet.errors import UserError

Limits = tuple[float, float]
DEPTHS = (18, 34, 50, 101, 152)
STAGES = ("make_default_stages", "detr_stages", "dilated_stages")
OURS = "d2_unsupdet.detectors."

# An argument of a part of ours: a value like it, the smallest and the largest. None passes.
ARGUMENTS: dict[str, tuple[Any, Limits]] = {
    **dict.fromkeys(
        ("dim", "heads", "ffn_dim", "levels", "points", "num_queries", "num_proposals"),
        (8, (1, INFINITY)),
    ),
    **dict.fromkeys(
        ("samples", "per_object", "candidates", "detections", "groups", "score_channels"),
        (4, (1, INFINITY)),
    ),
    **dict.fromkeys(
        ("positive", "negative", "positive_fraction", "threshold", "dropout", "label_noise"),
        (0.5, (0, 1)),
    ),
    **dict.fromkeys(
        ("class_cost", "box_cost", "giou_cost", "box_noise", "no_object", "gamma"),
        (1.0, (0, INFINITY)),
    ),
    "num_layers": (6, (1, INFINITY)),
}
WEIGHTS = "ce", "bbox", "giou"

# The same for Detectron2's YAML.
YAML: dict[str, tuple[Any, Limits]] = {
    **dict.fromkeys(
        ("NUM_OBJECT_QUERIES", "HIDDEN_DIM", "NHEADS", "DEC_LAYERS", "LEVELS"),
        (8, (1, INFINITY)),
    ),
    **dict.fromkeys(("POINTS", "PROPOSAL_TOPK", "QUERIES_PER_OBJECT"), (4, (1, INFINITY))),
    **dict.fromkeys(("IOU_THRESHOLD", "POSITIVE_FRACTION", "DROPOUT"), (0.5, (0, 1))),
}


def check_model(cfg: DictConfig) -> None:
    """Look at the `model` section of a LazyConfig."""
    for path, node in nodes(cfg, "model"):
        target = _name(node.get("_target_"))
        depth = node.get("depth") if _plain(node, "depth") else None
        if depth is not None and target.rpartition(".")[2] in STAGES:
            check_depth(f"{path}.depth", depth)
        if target.startswith(OURS):
            # The paper's detector without an encoder is a model, one without a decoder is none.
            own = {"num_layers": (6, (0, INFINITY))} if target.endswith("Encoder") else {}
            _check_arguments(path, node, {**ARGUMENTS, **own})
            if target.endswith(".Criterion") and isinstance(node.get("weights"), DictConfig):
                table = dict.fromkeys(WEIGHTS, (1.0, (0, INFINITY)))
                _check_arguments(f"{path}.weights", node.weights, table)


def check_yaml_values(section: Mapping[str, Any]) -> None:
    """Look at `MODEL` of Detectron2's YAML."""
    check_depth("MODEL.RESNETS.DEPTH", section["RESNETS"]["DEPTH"])
    for key, (like, limits) in YAML.items():
        value = section["DETR"][key]
        if value is not None:
            check_value(f"MODEL.DETR.{key}", value, like, limits)


def check_depth(key: str, depth: Any) -> None:
    if depth not in DEPTHS:
        known = ", ".join(map(str, DEPTHS))
        raise UserError(f"{key}={depth!r} is no ResNet here: it must be one of {known}.")


def _check_arguments(path: str, node: DictConfig, table: Mapping[str, tuple[Any, Limits]]) -> None:
    for name, (like, limits) in table.items():
        if _plain(node, name) and node[name] is not None:
            check_value(f"{path}.{name}", node[name], like, limits)


def _plain(node: DictConfig, name: str) -> bool:
    """Set here, and neither left to another key nor a part."""
    if name not in node or OmegaConf.is_interpolation(node, name):
        return False
    return not isinstance(node[name], DictConfig)


def _name(target: Any) -> str:
    """Where a target is defined, however it was imported."""
    if isinstance(target, str):
        target = locate(target)
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"
