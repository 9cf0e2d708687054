"""How far a prediction is from a target without negatives: cosine or cross-entropy.

Both are inner products of a map of the prediction with a map of the target, so that a sum over
weighted pairs needs no pair to be written out. At least fp32 whatever autocast says.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from d2_unsupdet.errors import UserError, nearest


@dataclass(frozen=True)
class Similarity:
    """The similarity `<left(p), right(z)>` of predictions and targets (..., channels).

    ::

        cosine = similarity("cosine")
        loss = -cosine(prediction, target.detach()).mean()

    Args:
        left: map of the prediction.
        right: map of the target.
    """

    left: Callable[[Tensor], Tensor]
    right: Callable[[Tensor], Tensor]

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(..., channels) twice -> (...)."""
        with torch.autocast(prediction.device.type, enabled=False):
            return (self.left(_full(prediction)) * self.right(_full(target))).sum(dim=-1)

    def weighted(self, prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Sum over pairs: prediction (b, n, c), target (b, m, c), weight (b, n, m) -> (b, n)."""
        with torch.autocast(prediction.device.type, enabled=False):
            left, right = self.left(_full(prediction)), self.right(_full(target))
            return (left * (weight.to(right.dtype) @ right)).sum(dim=-1)


def similarity(name: str) -> Similarity:
    """By name: "cosine", or "cross_entropy" of softmax(target) and softmax(prediction)."""
    if name not in _KINDS:
        raise UserError(
            f"No similarity is named '{name}'; use one of {', '.join(_KINDS)}."
            f"{nearest(name, _KINDS)}"
        )
    return _KINDS[name]


def _full(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _direction(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


_KINDS = {
    "cosine": Similarity(_direction, _direction),
    "cross_entropy": Similarity(lambda p: F.log_softmax(p, dim=-1), lambda z: F.softmax(z, dim=-1)),
}
