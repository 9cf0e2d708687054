"""Every golden file of a folder, compared with what this package computes."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from d2_unsupdet.errors import UserError
from d2_unsupdet.parity.build import CONFIGS, REPOSITORIES, is_detector, is_known
from d2_unsupdet.parity.compare import Aside, Row, failed
from d2_unsupdet.parity.detectors import check_detector
from d2_unsupdet.parity.golden import Golden
from d2_unsupdet.parity.one_view import check_detreg, check_up_detr
from d2_unsupdet.parity.operators import check_operators, is_operators
from d2_unsupdet.parity.pretexts import is_pretext
from d2_unsupdet.parity.two_views import check_siamese

_NO_COUNTERPART = ("giou.union", "pos.sine16_unnormalized")

_INPUTS = r"target\.|patches$|crops\.|masked\.mask_query_patch$"
_PRETEXTS: dict[str, Callable[[Golden, Path], Iterator[Row | Aside]]] = {
    "up-detr": check_up_detr,
    "DETReg": check_detreg,
    "SiameseDETR": check_siamese,
}

# repositories of other pretraining methods, and what is done with their files
_PRETRAINING = {
    "ZwwWayne/DenseSiam": "tests/pretext/test_dense_siam_segmentor.py compares it",
}


@dataclass(frozen=True)
class Outcome:
    """One golden file: its rows, or why there is none.

    Args:
        skipped: why nothing was compared.
        asides: arrays that say nothing about ours.
        left: outputs in the file that nothing of ours corresponds to.
    """

    name: str
    repository: str
    rows: Sequence[Row]
    skipped: str = ""
    asides: Sequence[Aside] = ()
    left: Sequence[str] = ()


def check_directory(
    folder: Path, only: Sequence[str] = (), configs: Path = CONFIGS, *, skip: Sequence[str] = ()
) -> Iterator[Outcome]:
    """The outcome of each `<name>.json` with arrays beside it, in the order of names.

    Args:
        only: names of files; none are all.
        configs: where the detectors' model configs lie.
        skip: names of files that are left out.
    """
    found = [path for path in sorted(folder.glob("*.json")) if path.with_suffix(".npz").is_file()]
    if not found:
        raise UserError(f"'{folder}' holds no golden file: <name>.json with <name>.npz beside it.")
    unknown = {*only, *skip} - {path.stem for path in found}
    if unknown:
        raise UserError(f"'{folder}' holds no golden file called {', '.join(sorted(unknown))}.")
    for path in found:
        if only and path.stem not in only:
            continue
        golden = Golden.read(path)
        if path.stem in skip:
            yield Outcome(golden.name, golden.repository, (), "as asked for")
        else:
            yield check(golden, configs)


def check(golden: Golden, configs: Path = CONFIGS) -> Outcome:
    """The rows of one golden file; what cannot be built or run is a failed row."""
    detector = is_pretext(golden) or is_detector(golden)
    operators = is_operators(golden)
    if not is_known(golden) and (reason := _not_compared(golden, detector or operators)):
        return Outcome(golden.name, golden.repository, (), reason)
    found: list[Row | Aside] = []
    left: list[str] = []
    try:
        if not is_known(golden):
            found.append(_unknown(golden))
        elif is_pretext(golden):
            found.extend(_PRETEXTS[golden.repository.rpartition("/")[2]](golden, configs))
            left = _without_row(golden, found)
        elif detector:
            found.extend(check_detector(golden, configs))
            left = _without_row(golden, found)
        elif operators:
            found.extend(check_operators(golden))
            left = [name for name in _NO_COUNTERPART if name in golden.arrays]
        else:
            found.append(failed("(file)", "exact", "holds no array that is known here"))
    except Exception as error:  # one broken file must not hide what the others say
        found.append(failed("(run)", "exact", f"{type(error).__name__}: {error}"))
    rows = [one for one in found if isinstance(one, Row)]
    asides = [one for one in found if isinstance(one, Aside)]
    return Outcome(golden.name, golden.repository, rows, asides=asides, left=left)


def _not_compared(golden: Golden, ours: bool) -> str:
    """A file with arrays of ours is only left out if its repository is known to hold others."""
    for repository, why in _PRETRAINING.items():
        if golden.repository.endswith(repository):
            return why
    return "" if ours else f"nothing here is compared with {golden.repository}"


def _unknown(golden: Golden) -> Row:
    known = ", ".join(REPOSITORIES)
    return failed(
        "(repository)",
        "exact",
        f"official_repo is {golden.repository}, none of {known}: correct it, or leave this file "
        f"out with --skip {golden.name}",
    )


def _without_row(golden: Golden, rows: Sequence[Row | Aside]) -> list[str]:
    """Inputs have none, and the two arrays of a match share a row."""
    seen = {row.name for row in rows}
    outputs = [name for name in golden.arrays if not re.match(_INPUTS, name)]
    return [n for n in outputs if n not in seen and n.removesuffix(".tgt") not in seen
            and n.removesuffix(".src") not in seen]  # fmt: skip
