"""A recipe in Python and its twin in Detectron2's YAML, side by side."""

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from d2_unsupdet.engine.config import load_config

Twins = list[tuple[DictConfig, torch.nn.Module]]


def load_twins(yaml: Path, **classes: int) -> Twins:
    """The configs of both and their models, whose weights take no memory.

    Args:
        yaml: the .py stands beside it.
        classes: set in the heads of the .py, where it waits for a data set.
    """
    found = []
    for suffix in (".py", ".yaml"):
        cfg = load_config(str(yaml.with_suffix(suffix)))
        if suffix == ".py" and classes:
            cfg.model.heads.update(classes)
        with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
            # Detectron2 moves what it builds, and what has no values cannot be moved.
            patch.setattr(torch.nn.Module, "to", lambda model, *_: model)
            found.append((cfg, instantiate(cfg.model)))
    return found


def optimizer_settings(cfg: DictConfig, model: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """What the optimizer does with each parameter; rules need not be spelled alike."""
    names = {id(p): name for name, p in model.named_parameters()}
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    del cfg.optimizer.params.model
    keys = [*(key for key in optimizer.defaults if key != "params"), "fixed_lr"]
    groups = optimizer.param_groups
    return {names[id(p)]: {k: g.get(k, False) for k in keys} for g in groups for p in g["params"]}
