"""Two-stage Deformable DETR and DETA compute what the official implementations computed."""

import pytest

from tests.parity.cases import check_everything, rows


@pytest.mark.parametrize("name", ["deformable_detr_r50_two_stage", "deta_r50"])
def test_everything_recorded_is_equal(name):
    check_everything(name)


def test_both_assigners_of_deta_are_part_of_it():
    found = rows("deta_r50")
    for stage in ("stage1", "stage2"):
        assert found[f"match.main.{stage}.img0"].kind == "exact"
    assert found["grad_norm.main"].passed
