"""Operators compute what the official implementations computed."""

import pytest

from tests.parity.cases import rows

COUNTS = {
    "op_common": 17,
    "op_dab_sine": 3,
    "op_deta": 40,
    "op_detr": 10,
    "op_dn_queries": 72,
    "op_msda": 23,
    "op_tokencut": 15,
    "op_updetr_attention_mask": 3,
    "siamese_detr_box_jitter": 2,
}


@pytest.mark.parametrize("name", COUNTS)
def test_every_output_is_equal(name):
    found = rows(name)
    wrong = [str(row) for row in found.values() if not row.passed]
    assert not wrong, "\n".join(wrong)
    assert len(found) == COUNTS[name]
