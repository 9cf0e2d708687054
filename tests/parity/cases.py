"""What the tests of parity share: the compact golden files, and one check of each."""

import os
from functools import cache
from pathlib import Path

from d2_unsupdet.parity.directory import Outcome, check
from d2_unsupdet.parity.golden import Golden

COMPACT = Path(__file__).parents[1] / "golden"
COMPLETE = Path(
    os.environ.get("D2_UNSUPDET_GOLDEN", Path(__file__).parents[2] / "../shared/golden")
)


@cache
def compared(name: str) -> Outcome:
    """What came of a compact golden file."""
    return check(Golden.read(COMPACT / f"{name}.json"))


def rows(name: str) -> dict:
    """Name -> row of a compact golden file."""
    outcome = compared(name)
    assert not outcome.skipped
    assert set(outcome.left) <= {"giou.union", "pos.sine16_unnormalized"}
    return {row.name: row for row in outcome.rows}


def check_everything(name: str) -> None:
    """Every row passes; that every output has one, `rows` has seen to."""
    found = rows(name)
    wrong = [str(row) for row in found.values() if not row.passed]
    assert not wrong, "\n".join(wrong)
