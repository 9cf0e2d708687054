"""DN-DAB-Deformable-DETR computes what the official implementation computed, noise switched off."""

from tests.parity.cases import check_everything, rows

NAME = "dn_dab_deformable_detr_r50"


def test_everything_recorded_is_equal():
    check_everything(NAME)


def test_denoising_is_part_of_it():
    found = rows(NAME)
    for name in ("attn_mask", "dn_boxes", "loss.tgt_loss_giou_4", "total_loss", "grad_norm"):
        assert found[f"dn.main.{name}"].passed
