"""Foreground of feature maps, and boxes of its regions in the pixels of the file."""

import pickle

import numpy as np
import pytest
import torch

from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.eigen_attention import EigenAttention, EigenBoxes

RECORD = {"file_name": "x.jpg"}


def features(mask, channels=16, noise=0.05, seed=0, offset=0.0):
    """A map with one direction inside of a mask and another outside."""
    random = torch.Generator().manual_seed(seed)
    means = torch.randn(2, channels, generator=random)
    cells = means[torch.as_tensor(mask).long().flatten()]
    cells = cells + noise * torch.randn(cells.shape, generator=random) + offset
    return cells.T.unflatten(1, mask.shape)


def planted(height=12, width=16):
    mask = np.zeros((height, width), bool)
    mask[3:8, 5:9] = True
    return mask


def test_the_foreground_is_the_planted_object():
    found = EigenAttention()(features(planted()))
    np.testing.assert_array_equal(found, planted())


def test_a_common_direction_is_taken_out_before():
    anisotropic = features(planted(), offset=30.0)
    np.testing.assert_array_equal(EigenAttention()(anisotropic), planted())
    assert EigenAttention(center=False)(anisotropic) is None  # every cosine exceeds tau
    ranked = EigenAttention(center=False, quantile=0.5)(anisotropic)
    np.testing.assert_array_equal(ranked, planted())


def test_where_nothing_stands_out_there_is_no_answer():
    attention = EigenAttention()
    assert attention(torch.ones(8, 6, 6)) is None
    assert attention(torch.zeros(8, 6, 6)) is None
    assert attention(torch.randn(8, 1, 1)) is None
    assert EigenAttention(most=0.05)(features(planted())) is None
    assert EigenAttention(least=0.5)(features(planted())) is None
    assert EigenAttention(least_gap=0.999)(features(planted(), noise=0.8)) is None


def test_the_vector_is_a_picture_that_is_high_on_the_foreground():
    picture, foreground = EigenAttention().vector(features(planted(), noise=0.3))
    assert picture.shape == foreground.shape == (12, 16)
    assert picture[foreground].mean() > picture[~foreground].mean()


def test_a_quantile_out_of_range_is_a_sentence():
    with pytest.raises(UserError, match="quantile is 1"):
        EigenAttention(quantile=1.0)


class Halves(torch.nn.Module):
    """A backbone of stride 16 that sees the brightness of a cell, as one of two directions."""

    strides = {"res4": 16}

    def forward(self, images):
        grey = torch.nn.functional.avg_pool2d(images.float().mean(1, keepdim=True), 16)
        bright = (grey > 128).float()
        return {"res4": torch.cat([bright, 1 - bright], 1)}


@pytest.mark.parametrize("scale", [1, 2])
def test_boxes_are_in_pixels_of_the_file_whatever_the_size_it_is_looked_at(scale):
    pixels = np.zeros((96 * scale, 160 * scale, 3), np.uint8)
    pixels[32 * scale : 64 * scale, 48 * scale : 112 * scale] = 255
    source = EigenBoxes(weights="random", short_edge=96, max_size=160)
    source.network = Halves()
    found = source(RECORD, pixels, np.random.default_rng(0))
    np.testing.assert_allclose(found.boxes, np.array([[48, 32, 112, 64]]) * scale, atol=1e-3)
    np.testing.assert_array_equal(found.scores, [1])
    empty = source(RECORD, np.zeros_like(pixels), np.random.default_rng(0))
    assert empty.boxes.shape == (0, 4)


def test_a_random_backbone_works_and_loads_again_in_another_process():
    source = EigenBoxes(weights="random", short_edge=96, max_size=128, count=3)
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    first = source(RECORD, pixels, np.random.default_rng(0))
    copy = pickle.loads(pickle.dumps(source))
    assert "network" not in copy.__dict__
    np.testing.assert_array_equal(copy(RECORD, pixels, np.random.default_rng(1)).boxes, first.boxes)
    assert len(first) <= 3
    sides = first.boxes[:, 2:] - first.boxes[:, :2]
    assert (sides > 0).all() and (first.boxes.max(0) <= [90, 60, 90, 60]).all()


def test_a_level_that_is_not_there_is_a_sentence():
    source = EigenBoxes(weights="random", level="res9")
    with pytest.raises(UserError, match="level 'res9' is none of"):
        source(RECORD, np.zeros((32, 32, 3), np.uint8), np.random.default_rng(0))
