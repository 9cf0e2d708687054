"""What a row's pretraining exports fits the detector that the row finetunes, tensor by tensor."""

from functools import cache
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from d2_unsupdet.engine.config import load_config
from d2_unsupdet.protocols import rows

ROOT = Path(__file__).resolve().parents[2]
ANEW = ("heads.classes.", "query_source.denoising.")  # one for each class, which nothing pretrains


@cache
def shapes(config: str, overrides: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Of what is exported or finetuned, on no device."""
    cfg = load_config(str(ROOT / config), list(overrides))
    if "heads" in cfg.model:
        cfg.model.heads.num_classes = 20
    with torch.device("meta"):
        model = instantiate(cfg.model)
    state = model.export() if hasattr(model, "export") else model.state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def detectors():
    """Each pair of a pretext on a detector and a finetuning, once."""
    found = {}
    for row in rows():
        if row.pretrain and row.finetune and "detr" in row.finetune.config:
            found.setdefault((row.pretrain, row.finetune), row)
    return list(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("row", detectors(), ids=lambda row: row.id)
def test_an_export_fits_its_finetuning(row):
    exported = shapes(row.pretrain.config, row.pretrain.overrides)
    detector = shapes(row.finetune.config, row.finetune.overrides)
    assert {name: detector.get(name) for name in exported} == exported
    new = detector.keys() - exported.keys()
    assert new and all(name.startswith(ANEW) for name in new)
