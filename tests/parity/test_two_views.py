"""Siamese DETR of full size computes what the official implementation computed for one image."""

import pytest

from d2_unsupdet.parity.directory import check
from d2_unsupdet.parity.golden import Golden
from d2_unsupdet.pretext import siamese_detr
from tests.parity.cases import COMPACT, check_everything, rows

NAMES = [f"siamese_detr_{kind}_r50" for kind in ("vanilla", "conditional", "deformable_ms")]


@pytest.mark.parametrize("name", NAMES)
def test_everything_recorded_is_equal(name):
    check_everything(name)


@pytest.mark.parametrize("name", NAMES)
def test_both_directions_are_part_of_it(name):
    found = rows(name)
    for part in ("dir1.pred_boxes", "dir2.pred_logits", "loss.loss_feature", "loss.loss_giou_4"):
        assert found[f"single.{part}"].passed


def test_regions_that_stay_in_their_view_are_noticed(monkeypatch):
    monkeypatch.setattr(siamese_detr, "_swap", lambda values: values)
    outcome = check(Golden.read(COMPACT / f"{NAMES[0]}.json"))
    failed = {row.name for row in outcome.rows if not row.passed}
    assert {"single.dir1.pred_boxes", "single.dir2.pred_logits", "single.loss.loss_bbox"} <= failed
