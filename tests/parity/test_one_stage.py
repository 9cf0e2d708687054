"""One-stage detectors of full size compute what the official implementations computed."""

import pytest

from tests.parity.cases import check_everything


@pytest.mark.parametrize(
    "name",
    [
        "detr_r50",
        "conditional_detr_r50",
        "deformable_detr_r50_single_scale",
        "deformable_detr_r50",
    ],
)
def test_everything_recorded_is_equal(name):
    check_everything(name)
