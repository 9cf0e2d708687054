"""Siamese DETR of full size computes what the official implementation computed for one image."""

import pytest

from tests.parity.cases import check_everything, rows

NAMES = [f"siamese_detr_{kind}_r50" for kind in ("vanilla", "conditional", "deformable_ms")]


@pytest.mark.parametrize("name", NAMES)
def test_everything_recorded_is_equal(name):
    check_everything(name)


@pytest.mark.parametrize("name", NAMES)
def test_both_directions_are_part_of_it(name):
    found = rows(name)
    for part in ("dir1.pred_boxes", "dir2.pred_logits", "loss.loss_feature", "loss.loss_giou_4"):
        assert found[f"single.{part}"].passed
