"""Refining detectors compute what the official implementations computed."""

import pytest

from tests.parity.cases import check_everything


@pytest.mark.parametrize("name", ["deformable_detr_r50_box_refine", "dab_deformable_detr_r50"])
def test_everything_recorded_is_equal(name):
    check_everything(name)
