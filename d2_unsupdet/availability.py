"""Which of the optional and separately installed packages are there, without importing them.

Detectron2 is not on PyPI, so it cannot be a plain requirement: this file holds the one sentence
that says how to get it, and the check that every room which needs it makes first.
"""

import importlib.util
from importlib import metadata

from d2_unsupdet.errors import UserError

INSTALL_COMMAND = "python -m d2_unsupdet.install_detectron2"


def is_installed(module: str) -> bool:
    """Whether `import module` would find a real module.

    A bare folder of that name in the working directory (a clone of Detectron2, say) is only a
    namespace package and does not count.
    """
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # a parent is missing, or None stands in sys.modules
        return False
    return spec is not None and spec.origin is not None


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution (its name on PyPI), or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


class MissingDetectron2(UserError, ImportError):
    """An ImportError for Python, one sentence for the command-line tools."""


def require_detectron2() -> None:
    """Raise the ImportError that says how to install Detectron2, if it is not there.

    Called in the first lines of every room that imports Detectron2.
    """
    if not is_installed("detectron2"):
        raise MissingDetectron2(
            f"d2_unsupdet needs Detectron2, which is not installed: run `{INSTALL_COMMAND}`.",
            name="detectron2",
        )
