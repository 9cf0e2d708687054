"""Losses and logged metrics beside the golden ones: only what our model itself computes counts."""

import re
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from d2_unsupdet.detectors import DETR
from d2_unsupdet.detectors.structures import Decoded, Encoded, Matches, Queries, Target
from d2_unsupdet.metrics import drain_metrics
from d2_unsupdet.parity.compare import Aside, Row, compare, failed
from d2_unsupdet.parity.golden import Golden

_DENOISED = re.compile(r"(.*)loss_(ce|bbox|giou)_dn(_\d+)?")
_NO_OBJECTS = "class error without objects: the original says 100, ours 0"
_NOT_LOGGED = "metrics that only the original logs"
_EVALUATION = "zero in evaluation, where ours has no such loss"


def run_losses(
    model: DETR, decoded: Decoded, encoded: Encoded, queries: Queries, targets: list[Target]
) -> tuple[dict[str, Tensor], Matches, dict[str, Tensor]]:
    """Weighted losses, matches, and what the criterion logged meanwhile."""
    drain_metrics()
    losses, matches = model.losses(decoded, encoded, queries, targets)
    return losses, matches, drain_metrics()


def compare_losses(
    golden: Golden,
    prefix: str,
    model: DETR,
    ours: Mapping[str, Tensor],
    logged: Mapping[str, Tensor],
    targets: Sequence[Target],
) -> Iterator[Row | Aside]:
    """Every golden loss and metric under `prefix`; `ours` are unweighted, under official names."""
    ours_logs = {"class_error"} | ({"cardinality_error"} if model.heads.background else set())
    for name, value in golden.arrays.items():
        if not name.startswith(prefix):
            continue
        short = name.removeprefix(prefix)
        if short in ours:
            yield compare(name, "loss", ours[short], value)
        elif short.startswith("tgt_") and not model.training and not value.any():
            yield Aside(name, _EVALUATION)
        elif "_error" not in short:
            yield failed(name, "loss", "we have no loss of that name")
        elif short not in ours_logs:
            yield Aside(name, _NOT_LOGGED)
        elif short == "class_error" and not sum(map(len, targets)):
            yield Aside(name, _NO_OBJECTS)
        elif short in logged:
            yield compare(name, "metric", logged[short], value)
        else:
            yield failed(name, "metric", "the criterion logs nothing of that name")


def unweighted(model: DETR, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names: those of denoising begin with tgt_."""
    result = {}
    for name, value in losses.items():
        part = name.split("_")[1]
        if match := _DENOISED.fullmatch(name):
            name = f"{match[1]}tgt_loss_{match[2]}{match[3] or ''}"
        result[name] = value / model.criterion.weights[part]
    return result
