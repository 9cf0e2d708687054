"""Every golden file of a folder, compared with what this package computes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from d2_unsupdet.errors import UserError
from d2_unsupdet.parity.build import CONFIGS, is_detector
from d2_unsupdet.parity.compare import Row, failed
from d2_unsupdet.parity.detectors import check_detector
from d2_unsupdet.parity.golden import Golden
from d2_unsupdet.parity.operators import check_operators, is_operators

_NO_COUNTERPART = ("giou.union", "pos.sine16_unnormalized")


@dataclass(frozen=True)
class Outcome:
    """One golden file: its rows, or why there is none to compare with yet.

    Args:
        left: outputs in the file that nothing of ours corresponds to.
    """

    name: str
    repository: str
    rows: Sequence[Row]
    skipped: str = ""
    left: Sequence[str] = ()


def check_directory(
    folder: Path, only: Sequence[str] = (), configs: Path = CONFIGS
) -> Iterator[Outcome]:
    """The outcome of each `<name>.json` with arrays beside it, in the order of names.

    Args:
        only: names of files; none are all.
        configs: where the detectors' model configs lie.
    """
    found = [path for path in sorted(folder.glob("*.json")) if path.with_suffix(".npz").is_file()]
    if not found:
        raise UserError(f"'{folder}' holds no golden file: <name>.json with <name>.npz beside it.")
    unknown = set(only) - {path.stem for path in found}
    if unknown:
        raise UserError(f"'{folder}' holds no golden file called {', '.join(sorted(unknown))}.")
    for path in found:
        if not only or path.stem in only:
            yield check(Golden.read(path), configs)


def check(golden: Golden, configs: Path = CONFIGS) -> Outcome:
    """The rows of one golden file; what cannot be built or run is a failed row."""
    rows: list[Row] = []
    left: list[str] = []
    try:
        if is_detector(golden):
            rows.extend(check_detector(golden, configs))
            left = _without_row(golden, rows)
        elif is_operators(golden):
            rows.extend(check_operators(golden))
            left = [name for name in _NO_COUNTERPART if name in golden.arrays]
        else:
            reason = f"nothing here is compared with {golden.repository} yet"
            return Outcome(golden.name, golden.repository, rows, reason)
    except Exception as error:  # one broken file must not hide what the others say
        rows.append(failed("(run)", "exact", f"{type(error).__name__}: {error}"))
    return Outcome(golden.name, golden.repository, rows, left=left)


def _without_row(golden: Golden, rows: Sequence[Row]) -> list[str]:
    """Targets are inputs, and the two arrays of a match share a row."""
    seen = {row.name for row in rows}
    outputs = [name for name in golden.arrays if not name.startswith("target.")]
    return [n for n in outputs if n not in seen and n.removesuffix(".tgt") not in seen
            and n.removesuffix(".src") not in seen]  # fmt: skip
