"""Boxes that nobody drew, in pictures: their places, their number, generations in a row."""

import numpy as np
import torch

from d2_unsupdet.analysis.pictures import PALETTE
from d2_unsupdet.analysis.prior_pictures import draw_generations, draw_priors, draw_sample, evenly
from d2_unsupdet.priors.found import Found

BAR, SIDE = 24, 320
IMAGE = np.full((64, 64, 3), 90, np.uint8)  # enlarged five times


def is_color(picture, number):
    return np.abs(picture.astype(int) - PALETTE[number]).sum(-1) < 12


def found(*boxes, kinds=None):
    kinds = None if kinds is None else np.array(kinds, np.uint8)
    return Found(np.float32(boxes), np.ones(len(boxes), np.float32), kinds)


def test_boxes_are_drawn_where_they_are_and_without_a_name():
    picture = draw_priors(IMAGE, found([8, 16, 40, 48]), "it")[BAR:]
    orange = is_color(picture, 0)
    rows, columns = np.nonzero(orange)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (40, 80, 200, 240)
    assert not orange[90:230, 50:190].any()


def test_kinds_have_colours_and_the_worst_are_left_out():
    boxes = [[1, 1, 20, 20], [30, 30, 50, 50], [5, 40, 20, 60]]
    picture = draw_priors(IMAGE, found(*boxes, kinds=[0, 1, 1]), "it", limit=2)[BAR:]
    assert is_color(picture, 0)[:110, :110].any() and is_color(picture, 1)[140:, 140:].any()
    assert not is_color(picture, 1)[190:, :110].any()


def test_generations_stand_in_a_row_and_a_missing_image_is_bare():
    row = draw_generations(IMAGE, {0: found([8, 8, 24, 24]), 3: None})
    assert row.shape == (BAR + SIDE, 2 * SIDE + 8, 3)
    assert (row[BAR:, SIDE + 8 :] == 90).all() and is_color(row[BAR:, :SIDE], 0).any()


def test_a_region_has_one_colour_in_both_views():
    views = torch.full((2, 3, 64, 64), 90, dtype=torch.uint8)
    priors = torch.tensor(
        [[[2.0, 2, 20, 20], [30, 30, 60, 60]], [[40.0, 2, 60, 20], [2, 30, 30, 60]]]
    )
    picture = draw_sample({"views": views, "priors": priors})[BAR:]
    first, second = picture[:, :SIDE], picture[:, SIDE + 8 :]
    assert is_color(first, 0)[:120, :120].any() and is_color(second, 0)[:120, 180:].any()
    assert is_color(first, 1)[140:, 140:].any() and is_color(second, 1)[140:, :170].any()
    assert not is_color(second, 0)[:, :150].any()


def test_boxes_of_one_image_share_a_colour_and_none_is_no_crash():
    image = torch.full((3, 64, 64), 90, dtype=torch.uint8)
    boxes = torch.tensor([[2.0, 2, 20, 20], [30, 30, 60, 60]])
    picture = draw_sample({"image": image, "priors": boxes})[BAR:]
    assert is_color(picture, 0)[:120, :120].any() and is_color(picture, 0)[140:, 140:].any()
    assert (draw_sample({"image": image, "priors": boxes[:0]})[BAR:] == 90).all()


def test_first_and_last_generation_are_always_among_those_drawn():
    assert evenly([0, 1, 2], 5) == [0, 1, 2]
    assert evenly(list(range(0, 60, 2)), 5) == [0, 14, 28, 44, 58]
