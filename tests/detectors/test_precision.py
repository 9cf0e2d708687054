"""The nine detectors in mixed precision, and with blocks that are computed twice to save memory."""

import pytest
import torch

from d2_unsupdet.detectors import HungarianAssigner, OverlapAssigner
from d2_unsupdet.engine.activation_checkpoint import checkpoint_blocks
from tests.detectors.tiny import NAMES, batch_of, tiny_detr

every = pytest.mark.parametrize("name", NAMES)


def keep_stages(monkeypatch):
    """What the assigners are asked to compare."""
    stages = []
    for kind in (HungarianAssigner, OverlapAssigner):

        def ask(self, stage, ask=kind.ask):
            stages.append(stage)
            return ask(self, stage)

        monkeypatch.setattr(kind, "ask", ask)
    return stages


@every
@pytest.mark.parametrize("mask_padding", [False, True])
def test_mixed_precision_keeps_boxes_and_losses_single(name, mask_padding, monkeypatch):
    stages = keep_stages(monkeypatch)
    model = tiny_detr(name, backbone__mask_padding=mask_padding).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(batch_of(2, 1))
    assert all(torch.isfinite(v) and v.dtype == torch.float32 for v in losses.values())
    assert all(stage.boxes.dtype == torch.float32 for stage in stages)
    assert stages[0].logits.dtype == torch.bfloat16  # the matrix products were in half precision
    references = [stage.reference for stage in stages if stage.reference is not None]
    assert all(reference.dtype == torch.float32 for reference in references)
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = model.eval()(batch_of(1))[0]["instances"]
    assert found.pred_boxes.tensor.dtype == found.scores.dtype == torch.float32


@every
@pytest.mark.parametrize("mask_padding", [False, True])
def test_blocks_computed_twice_give_the_same_gradients(name, mask_padding):
    gradients = []
    for twice in (False, True):
        model = tiny_detr(name, backbone__mask_padding=mask_padding).train()
        if twice:
            assert checkpoint_blocks(model) == 7  # res3 to res5, two layers on either side
        torch.manual_seed(3)
        losses = model(batch_of(2, 1))
        torch.stack(list(losses.values())).sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], expected, rtol=1e-4, atol=1e-6)
