"""Pretrain object detectors without labels, on top of Detectron2.

Importing it registers every pretext and detector with Detectron2. Without Detectron2 the import
still works and registers nothing, so that the installer and the environment report can run.
"""

import sys
import warnings
from itertools import pairwise

from d2_unsupdet.availability import is_installed

__version__ = "0.1.0"

# These two explain and mend a broken installation: they must not import torch or Detectron2 first.
_STANDALONE = {"d2_unsupdet.env", "d2_unsupdet.install_detectron2"}


def register_all() -> None:
    """What importing the package does, for a program that says `__registers_later__ = True`.

    Our command-line tools say so before they import anything of ours: torch takes seconds, and
    `--help` or a mistyped option needs none of it. They call this once the options are understood.
    """
    with warnings.catch_warnings():
        # fvcore scripts a loss while it is imported, and PyTorch tells every user of it
        warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
        from d2_unsupdet import data, detectors, pretext  # noqa: F401 (only to register)


def _runs_standalone() -> bool:
    return any(a == "-m" and b in _STANDALONE for a, b in pairwise(sys.orig_argv))


def _registers_later() -> bool:
    return getattr(sys.modules.get("__main__"), "__registers_later__", False)


if (
    is_installed("detectron2")
    and is_installed("torch")
    and not _runs_standalone()
    and not _registers_later()
):
    register_all()
