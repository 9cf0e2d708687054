"""Cityscapes' own scripts behind Detectron2's evaluators, on current NumPy and as part of a run.

After all inference the newest cityscapesScripts (2.3.0) calls `np.in1d`, which NumPy 2.4 removed,
and leaves `matches.json` in the current folder, whose counts current NumPy makes unwritable. The
scripts also print to the screen and end the process where something is wrong.
"""

import importlib
import io
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from detectron2.evaluation import CityscapesInstanceEvaluator, CityscapesSemSegEvaluator

from d2_unsupdet.errors import UserError

logger = logging.getLogger(__name__)
_SCRIPTS = "cityscapesscripts.evaluation.eval{}LevelSemanticLabeling"


class CityscapesInstances(CityscapesInstanceEvaluator):
    """Mask AP of the eight object classes: `segm` with AP and AP50."""

    def evaluate(self) -> OrderedDict | None:
        return _scored(super().evaluate, "Instance")


class CityscapesSemantics(CityscapesSemSegEvaluator):
    """IoU of the 19 classes and of their categories, and weighted by instances: `sem_seg`."""

    def evaluate(self) -> OrderedDict | None:
        return _scored(super().evaluate, "Pixel")


class _EarlierNumpy:
    """NumPy with the one name that the scripts miss."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def in1d(values: Any, known: Any) -> np.ndarray:
        return np.isin(np.ravel(values), known)


def _scored(evaluate: Callable[[], OrderedDict | None], level: str) -> OrderedDict | None:
    scripts: Any = importlib.import_module(_SCRIPTS.format(level))
    scripts.np, write, printed = _EarlierNumpy(), scripts.writeDict2JSON, io.StringIO()

    def write_asked(content: Any, file: str) -> None:
        if os.path.isabs(file):  # all but the stray file
            write(content, file)

    scripts.writeDict2JSON = write_asked
    try:
        with redirect_stdout(printed):
            return evaluate()
    except SystemExit as error:
        lines = [line for line in printed.getvalue().splitlines() if line.strip()]
        raise UserError(
            f"Cityscapes' scripts stopped: {lines[-1].strip() if lines else error}"
        ) from error
    finally:
        scripts.writeDict2JSON = write
        logger.debug(printed.getvalue())
