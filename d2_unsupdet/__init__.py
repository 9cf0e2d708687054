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


def _runs_standalone() -> bool:
    return any(a == "-m" and b in _STANDALONE for a, b in pairwise(sys.orig_argv))


if is_installed("detectron2") and is_installed("torch") and not _runs_standalone():
    with warnings.catch_warnings():
        # fvcore scripts a loss while it is imported, and PyTorch tells every user of it
        warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
        from d2_unsupdet import data as data  # only to register
        from d2_unsupdet import detectors as detectors  # only to register
        from d2_unsupdet import pretext as pretext  # only to register
