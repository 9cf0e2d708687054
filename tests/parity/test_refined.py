"""Refining detectors and denoising compute what the official implementations computed."""

import pytest

from tests.parity.cases import check_everything, rows


@pytest.mark.parametrize(
    "name",
    ["deformable_detr_r50_box_refine", "dab_deformable_detr_r50", "dn_dab_deformable_detr_r50"],
)
def test_everything_recorded_is_equal(name):
    check_everything(name)


def test_denoising_is_part_of_it():
    found = rows("dn_dab_deformable_detr_r50")
    for name in ("attn_mask", "dn_boxes", "loss.tgt_loss_giou_4", "total_loss", "grad_norm"):
        assert found[f"dn.main.{name}"].passed
