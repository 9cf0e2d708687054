"""Errors a user can mend: one sentence that names the value and the fix, never a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The message is one sentence; the command-line tools print it and exit with 2."""


def nearest(name: str, candidates: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the closest candidate, or an empty string."""
    match = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return f" Did you mean '{match[0]}'?" if match else ""
