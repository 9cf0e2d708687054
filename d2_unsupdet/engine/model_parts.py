"""The model from its config; what a part refuses becomes one sentence with the part's values."""

import logging
import traceback
from types import TracebackType
from typing import Any

from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from d2_unsupdet.engine.config import nodes
from d2_unsupdet.errors import UserError

REFUSALS = (AssertionError, TypeError, ValueError, KeyError, IndexError, ZeroDivisionError)
_PLAIN = (bool, int, float, str, type(None))
_LENGTH = 60  # of a value in the sentence: a part can hold a whole YAML file as text


def instantiate_model(cfg: DictConfig) -> nn.Module:
    """Build `cfg` (the `model` section). The error that a part raised is the cause of ours."""
    log = logging.getLogger("detectron2.config.instantiate")
    log.addFilter(_silent)  # it announces what the sentence says again
    try:
        return instantiate(cfg)
    except REFUSALS as error:
        what = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")
        raise UserError(
            f"{_part(error.__traceback__, cfg)} cannot be built: {what}; see its arguments with "
            "--print-config, or where it happened with --debug."
        ) from error
    finally:
        log.removeFilter(_silent)


def _silent(_: logging.LogRecord) -> bool:
    return False


def _part(trace: TracebackType | None, cfg: DictConfig) -> str:
    """Path, target and plain values of the innermost node that was being built."""
    calls = [
        frame.f_locals
        for frame, _ in traceback.walk_tb(trace)
        if frame.f_code is instantiate.__code__ and "cls_name" in frame.f_locals
    ]
    if not calls:
        return "model"
    name, arguments = str(calls[-1]["cls_name"]), calls[-1]["cfg"]
    values = {k: v for k, v in arguments.items() if isinstance(v, _PLAIN)}
    listed = ", ".join(
        f"{key}={value!r}" for key, value in values.items() if len(repr(value)) <= _LENGTH
    )
    path = _path(cfg, name.rpartition(".")[2], values)
    return f"{path}{name.rpartition('.')[2]}({listed})"


def _path(cfg: DictConfig, name: str, values: dict[str, Any]) -> str:
    for path, node in nodes(cfg, "model"):
        target = node.get("_target_")
        target = target if isinstance(target, str) else getattr(target, "__qualname__", "")
        if target.rpartition(".")[2] == name and all(node.get(k) == v for k, v in values.items()):
            return f"{path}, "
    return ""
