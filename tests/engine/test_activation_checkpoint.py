"""Checkpointed blocks: same gradients, same running statistics, same keys."""

import copy

import pytest
import torch
from detectron2.modeling.backbone.resnet import BasicStem, ResNet

from d2_unsupdet.engine.activation_checkpoint import checkpoint_blocks
from tests.detectors.tiny import NAMES, batch_of, tiny_detr


def test_nothing_changes_but_memory():
    torch.manual_seed(0)
    stages = ResNet.make_default_stages(18, norm="BN")
    plain = ResNet(BasicStem(norm="BN"), stages, out_features=["res5"])
    saved = copy.deepcopy(plain)
    assert checkpoint_blocks(saved) == 9  # the stem and eight blocks
    images = torch.randn(4, 3, 64, 64)
    for model in (plain, saved):
        model.train()(images)["res5"].square().mean().backward()
    states = plain.state_dict(), saved.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    for a, b in zip(plain.parameters(), saved.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_transformer_layers_too(name):
    """With dropout: the second run draws what the first drew."""
    plain = tiny_detr(name, encoder__dropout=0.1).train()
    saved = copy.deepcopy(plain)
    assert checkpoint_blocks(saved) == 3 + 2 + 2  # res3 to res5; the stem and res2 are frozen
    for model in (plain, saved):
        torch.manual_seed(1)
        torch.stack(list(model(batch_of(2, 3)).values())).sum().backward()
    for a, b in zip(plain.parameters(), saved.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)
