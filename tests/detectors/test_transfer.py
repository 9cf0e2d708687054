"""An exported backbone fits every downstream detector, and all of it arrives."""

import pytest
import torch
from torch import nn

from d2_unsupdet.checkpoint.load import load_weights
from tests.detectors.test_rcnn import TWINS, from_lazy
from tests.pretext.tiny import tiny_moco

HEADS = ("proposal_generator.", "roi_heads.box", "roi_heads.mask", "roi_heads.res5.norm.")
NEW = (*HEADS, "backbone.fpn_", "backbone.top_block", "head.")


@pytest.fixture(scope="module")
def exported() -> dict[str, torch.Tensor]:
    model = tiny_moco()
    with torch.no_grad():  # no tensor may look like a fresh one
        for tensor in model.query.backbone.state_dict().values():
            tensor.add_(1)
    return model.export()


def resnet_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The detector's tensors that belong to its ResNet, under bare names."""
    found = {}
    for name, value in model.state_dict().items():
        if not name.startswith(NEW):
            found[name[min(name.find(x) for x in ("stem.", "res") if x in name) :]] = value
    return found


@pytest.mark.parametrize("name", TWINS)
def test_every_tensor_arrives(name, exported):
    model = from_lazy(name, 18)
    report = load_weights(model, exported)
    assert report.full_coverage
    assert all(new.startswith(NEW) for new in report.new)
    arrived = resnet_tensors(model)
    assert arrived.keys() == exported.keys()
    for key, value in exported.items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(arrived[key], value), key
