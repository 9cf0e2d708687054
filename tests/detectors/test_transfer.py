"""The backbone that each method exports fits every downstream detector, and all of it arrives."""

import copy

import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from d2_unsupdet.checkpoint.load import load_weights
from d2_unsupdet.engine.config import load_config
from tests.detectors.test_rcnn import CONFIGS, TWINS, from_lazy
from tests.detectors.test_yaml_parts import small_lazy

HEADS = ("proposal_generator.", "roi_heads.box", "roi_heads.mask", "roi_heads.res5.norm.")
TRANSFORMER = ("neck.", "encoder.", "query_source.", "decoder.", "heads.")
NEW = (*HEADS, *TRANSFORMER, "backbone.fpn_", "backbone.top_block", "head.")
DETECTORS = (*TWINS, "detr", "deformable_detr")
METHODS = sorted(path.parent.name for path in (CONFIGS / "pretrain").glob("*/folder_r18.py"))


def test_every_backbone_method_has_a_recipe_for_folders():
    assert {"moco_v2", "simsiam", "dupr", "dense_siam"} <= set(METHODS)


@pytest.fixture(scope="module", params=METHODS)
def exported(request) -> dict[str, torch.Tensor]:
    path = CONFIGS / f"pretrain/{request.param}/folder_r18.py"
    cfg = load_config(str(path)).model
    if "num_classes" in cfg:
        cfg.num_classes = 4  # "auto" waits for a data set
    model = instantiate(cfg)
    with torch.no_grad():  # no tensor may look like a fresh one
        for part in (model, getattr(model, "query", model)):
            for tensor in part.backbone.state_dict().values() if hasattr(part, "backbone") else ():
                tensor.add_(1)
    return model.export()


@pytest.fixture(scope="module")
def detectors() -> dict[str, nn.Module]:
    rcnns = {name: from_lazy(name, 18) for name in TWINS}
    return rcnns | {name: small_lazy(name) for name in DETECTORS if "detr" in name}


def resnet_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The detector's tensors that belong to its ResNet, under bare names."""
    found = {}
    for name, value in model.state_dict().items():
        if not name.startswith(NEW):
            found[name[min(name.find(x) for x in ("stem.", "res") if x in name) :]] = value
    return found


@pytest.mark.parametrize("name", DETECTORS)
def test_every_tensor_arrives(name, exported, detectors):
    model = copy.deepcopy(detectors[name])
    report = load_weights(model, exported)
    assert report.full_coverage
    assert all(new.startswith(NEW) for new in report.new)
    arrived = resnet_tensors(model)
    # Frozen norms do not count batches.
    expected = {k: v for k, v in exported.items() if not k.endswith("num_batches_tracked")}
    assert {k for k in arrived if not k.endswith("num_batches_tracked")} == expected.keys()
    for key, value in expected.items():
        assert torch.equal(arrived[key], value), key
