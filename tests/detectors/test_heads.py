"""Heads, their initial values, and the arithmetic of boxes below them."""

import math

import pytest
import torch
from torch import nn
from torchvision.ops import generalized_box_iou_loss

from d2_unsupdet.detectors import Heads
from d2_unsupdet.detectors.boxes import full_precision, inverse_sigmoid, paired_giou, to_xyxy
from d2_unsupdet.detectors.layers import MLP, FeedForward, xavier
from tests.detectors.tiny import tiny_config

SIZES = {  # logit of width and height that the first and the other box heads start from
    "conditional_detr": (0.0, None),
    "deformable_detr": (-2.0, None),
    "deformable_detr_single_scale": (-2.0, None),
    "deformable_detr_refine": (-2.0, 0.0),
    "deformable_detr_two_stage": (0.0, 0.0),
    "dab_deformable_detr": (-2.0, 0.0),
    "dn_dab_deformable_detr": (-2.0, 0.0),
    "deta": (0.0, 0.0),
}


def heads_of(name):
    from detectron2.config import instantiate

    config = tiny_config(name)
    config.encoder.dim = 64
    return instantiate(config).heads


@pytest.mark.parametrize("name", SIZES)
def test_heads_start_as_the_originals(name):
    heads = heads_of(name)
    first, others = SIZES[name]
    assert len(heads.classes) == len(heads.boxes) == (1 if others is None else 2)
    for classifier in heads.classes:
        torch.testing.assert_close(classifier.bias, torch.full((5,), -4.59512))
        assert classifier.weight.abs().max() <= 1 / 8  # PyTorch's own: 1 / sqrt(64)
        assert classifier.weight.std() > 0.05
    for number, head in enumerate(heads.boxes):
        last = head.layers[-1]
        assert not last.weight.any()
        assert last.bias.tolist() == [0, 0] + 2 * [first if number == 0 else others]
        assert head.layers[0].weight.std() > 0.05


def test_detr_keeps_pytorchs_initialisation_and_a_background_class():
    heads = heads_of("detr")
    assert heads.classes[0].out_features == 6
    assert heads.classes[0].bias.abs().max() <= 1 / 8
    assert heads.boxes[0].layers[-1].weight.std() > 0.05


@pytest.mark.parametrize("shared", [True, False])
def test_layers_share_heads_or_have_their_own(shared):
    heads = Heads(num_classes=3, dim=8, num_layers=4, shared=shared)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = torch.randn(2, 5, 8)
    logits = [heads.classify(layer, x) for layer in range(4)]
    boxes = [heads.locate(layer, x, None) for layer in range(4)]
    for layer in range(4):
        own = layer * (not shared)
        assert torch.equal(logits[layer], heads.classes[own](x))
        assert torch.equal(boxes[layer], heads.boxes[own](x).sigmoid())
        assert layer == 0 or torch.equal(boxes[layer], boxes[0]) == shared


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
@pytest.mark.parametrize("width", [0, 2, 4])
def test_boxes_are_offsets_from_their_reference(width, eps):
    heads = Heads(num_classes=3, dim=8, box_start="default", eps=eps)
    hidden = torch.randn(1, 3, 8)
    reference = torch.tensor([[[0.2, 0.6, 0.1, 0.9], [0.0, 1.0, 0.0, 1.0], [0.5] * 4]])
    found = heads.locate(0, hidden, reference[..., :width] if width else None)
    offset = heads.boxes[0](hidden).detach()
    for n in range(3):
        for c in range(4):
            logit = float(offset[0, n, c])
            if c < width:
                p = float(reference[0, n, c])
                logit += math.log(max(p, eps) / max(1 - p, eps))
            assert found[0, n, c].item() == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-6)


def test_a_box_head_at_zero_answers_its_reference():
    heads = Heads(num_classes=3, dim=8)
    reference = torch.rand(2, 5, 4) * 0.9 + 0.05
    torch.testing.assert_close(heads.locate(0, torch.randn(2, 5, 8), reference), reference)
    points = heads.locate(0, torch.randn(2, 5, 8), reference[..., :2])
    torch.testing.assert_close(points[..., :2], reference[..., :2])
    assert (points[..., 2:] == 0.5).all()


def test_inverse_sigmoid_is_bounded_by_eps():
    x = torch.tensor([-1.0, 0.0, 1e-6, 0.25, 0.5, 1 - 1e-6, 1.0, 2.0]).double()
    for eps in (1e-5, 1e-3):
        found = inverse_sigmoid(x, eps)
        end = math.log(1 / eps)
        expected = [-end, -end, -end, math.log(1 / 3), 0.0, end, end, end]
        torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=1e-4, atol=1e-5)


def test_boxes_keep_single_precision():
    assert to_xyxy(torch.tensor([[0.5, 0.4, 0.2, 0.6]])).tolist() == [
        pytest.approx([0.4, 0.1, 0.6, 0.7])
    ]
    for dtype, expected in (
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        assert full_precision(torch.zeros(1, dtype=dtype)).dtype == expected


def test_multi_layer_perceptron_has_relu_between_and_none_behind():
    mlp = MLP(3, 5, 4, 2)
    x = torch.randn(7, 3)
    by_hand = nn.Sequential(mlp.layers[0], nn.ReLU(), mlp.layers[1], nn.ReLU(), mlp.layers[2])
    torch.testing.assert_close(mlp(x), by_hand(x))
    nn.init.constant_(mlp.layers[2].bias, -9.0)
    assert (mlp(x) < 0).any()


def test_feed_forward_drops_out_behind_its_relu():
    block = FeedForward(dim=4, width=200, dropout=0.5)
    x = torch.randn(3, 4)
    expected = block.linear2(block.linear1(x).relu())
    torch.testing.assert_close(block.eval()(x), expected)
    seen = []
    block.linear2.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    block.train()(x)
    hidden = block.linear1(x).relu()
    kept = seen[0] != 0
    torch.testing.assert_close(seen[0], torch.where(kept, 2 * hidden, 0.0))
    assert 0.3 < kept[hidden > 0].float().mean() < 0.7


def test_xavier_leaves_vectors_alone():
    linear = nn.Linear(200, 100)
    bias = linear.bias.detach().clone()
    xavier(linear)
    bound = (6 / 300) ** 0.5
    assert 0.99 * bound < linear.weight.abs().max() <= bound
    assert torch.equal(linear.bias, bias)


def test_paired_giou_is_torchvisions_and_never_fails():
    torch.manual_seed(0)
    boxes, others = to_xyxy(torch.rand(50, 4)), to_xyxy(torch.rand(50, 4))
    boxes.requires_grad_()
    loss = generalized_box_iou_loss(boxes, others)
    (wanted,) = torch.autograd.grad(loss.sum(), boxes)
    (got,) = torch.autograd.grad(1 - paired_giou(boxes, others).sum(), boxes)
    torch.testing.assert_close(1 - paired_giou(boxes, others), loss)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    points = torch.zeros(2, 4)  # no area, no hull
    assert torch.isfinite(paired_giou(points, points)).all()
