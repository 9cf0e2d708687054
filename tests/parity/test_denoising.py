"""DN-DAB-Deformable-DETR computes what the official implementation computed, noise switched off."""

from tests.parity.cases import check_everything, compared, rows

NAME = "dn_dab_deformable_detr_r50"


def test_everything_recorded_is_equal():
    check_everything(NAME)


def test_denoising_is_part_of_it():
    found = rows(NAME)
    for name in ("attn_mask", "dn_boxes", "loss.tgt_loss_giou_4", "total_loss", "grad_norm"):
        assert found[f"dn.main.{name}"].passed


def test_what_says_nothing_about_ours_is_not_counted():
    apart = {aside.name for aside in compared(NAME).asides}
    assert not apart & set(rows(NAME))
    for name in ("loss.main.tgt_loss_bbox", "dn.main.loss.tgt_class_error", "loss.main.cardinality_"
                 "error_0", "loss.allempty.class_error"):  # fmt: skip
        assert name in apart
    assert {"loss.main.class_error", "dn.main.loss.class_error"} <= set(rows(NAME))
