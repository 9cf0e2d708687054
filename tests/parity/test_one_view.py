"""UP-DETR and DETReg of full size compute what the official implementations computed."""

import pytest

from tests.parity.cases import check_everything, rows


@pytest.mark.parametrize(
    "name", ["updetr_pretrain_r50", "detreg_deformable_r50", "detreg_detr_r50"]
)
def test_everything_recorded_is_equal(name):
    check_everything(name)


def test_patches_dropped_queries_and_gradients_are_part_of_it():
    found = rows("updetr_pretrain_r50")
    for name in (
        "attention_mask",
        "gt_feature_sub",
        "four_patches.pred_boxes",
        "loss.main.loss_feature_4",
        "masked.loss.loss_feature",
        "masked.pred_boxes",
        "grad_norm.main",
    ):
        assert found[name].passed


def test_embeddings_are_part_of_it():
    for name in ("detreg_deformable_r50", "detreg_detr_r50"):
        found = rows(name)
        for case in ("main", "oneempty"):
            assert found[f"loss.{case}.loss_object_embedding"].passed
        assert found["forward.img1.boxes"].passed  # the pretext answers as its detector does
