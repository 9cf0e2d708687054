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


@dataclass(frozen=True)
class Outcome:
    """One golden file: its rows, or why there is none to compare with yet."""

    name: str
    repository: str
    rows: Sequence[Row]
    skipped: str = ""


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
    try:
        if is_detector(golden):
            rows.extend(check_detector(golden, configs))
        elif is_operators(golden):
            rows.extend(check_operators(golden))
        else:
            reason = f"nothing here is compared with {golden.repository} yet"
            return Outcome(golden.name, golden.repository, rows, reason)
    except (UserError, RuntimeError, KeyError, ValueError) as error:
        rows.append(failed("(run)", "exact", f"{type(error).__name__}: {error}"))
    return Outcome(golden.name, golden.repository, rows)
