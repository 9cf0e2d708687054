"""How a stage asks for its targets: everything on the device first, then one transfer for all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from d2_unsupdet.detectors.structures import Match, Target
from d2_unsupdet.detectors.transfer import to_host


@dataclass(frozen=True)
class Stage:
    """Predictions that are to be given targets: all decoder layers, or the encoder's tokens.

    Args:
        logits: (D, B, N, K).
        boxes: (D, B, N, 4) cxcywh in 0..1.
        reference: (B, N, 4) the boxes that predictions started from, if they are boxes.
        targets: of each image.
        blocked: (B, N), True for what must not get a target: padding.
        allowed: (N, M), which query may take which target; None for any.
    """

    logits: Tensor
    boxes: Tensor
    reference: Tensor | None
    targets: Sequence[Target]
    blocked: Tensor | None = None
    allowed: Tensor | None = None


class Assigner(Protocol):
    """Decides in two halves, so that several stages share one transfer to the host."""

    def ask(self, stage: Stage) -> list[Tensor]:
        """What the decision needs, on the device."""
        ...

    def answer(self, stage: Stage, asked: list[Tensor]) -> list[Match]:
        """The same tensors on the CPU to one Match for each layer."""
        ...


@torch.no_grad()
def assign(stages: Sequence[tuple[Assigner, Stage]]) -> list[list[Match]]:
    """The matches of all stages, with one wait for the device."""
    asked = [assigner.ask(stage) for assigner, stage in stages]
    arrived = iter(to_host([tensor for tensors in asked for tensor in tensors]))
    result = []
    for (assigner, stage), tensors in zip(stages, asked, strict=True):
        result.append(assigner.answer(stage, [next(arrived) for _ in tensors]))
    return result
