"""Shaken boxes stay near their boxes and inside their own image."""

import torch

from d2_unsupdet.pretext.box_jitter import jitter_boxes

BOX = torch.tensor([[[10.0, 20, 30, 60]], [[0, 0, 50, 40]]])  # (images, 1, 4)
SIZES = torch.tensor([[100, 200], [40, 50]])  # height, width


def test_known_values():
    """Sigmoid of ln 3 is 3/4: half of the range."""
    noise = torch.tensor([1.0, -1, 0, 1]).expand(2, 1, 4) * torch.tensor(3.0).log()
    found = jitter_boxes(BOX, SIZES, noise, amount=0.1)
    assert torch.allclose(found[0], torch.tensor([[11.0, 18, 30, 62]]))
    assert torch.allclose(found[1], torch.tensor([[2.5, 0, 50, 40]]))  # cut at the image's border


def test_no_corner_moves_further_than_the_amount():
    noise = torch.randn(2, 500, 4, generator=torch.Generator().manual_seed(0)) * 100
    sizes = torch.tensor([[1000.0, 1000], [1000, 1000]])
    boxes = (BOX + 100).expand(2, 500, 4)
    moved = (jitter_boxes(boxes, sizes, noise, amount=0.2) - boxes).abs().amax((1,))
    expected = torch.tensor([[20.0, 40, 20, 40], [50, 40, 50, 40]]) * 0.2
    assert torch.allclose(moved, expected)


def test_no_amount_and_no_noise_leave_the_boxes():
    noise = torch.randn(2, 1, 4)
    assert torch.equal(jitter_boxes(BOX, SIZES, noise, amount=0.0), BOX)
    assert torch.equal(jitter_boxes(BOX, SIZES, noise * 0), BOX)


def test_an_image_depends_on_its_own_boxes_noise_and_size_only():
    noise = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(1))
    together = jitter_boxes(BOX, SIZES, noise)
    alone = [jitter_boxes(BOX[i], SIZES[i], noise[i]) for i in range(2)]
    assert torch.equal(together, torch.stack(alone))
