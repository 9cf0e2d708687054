"""The loss of one test image: which images a detector fails at, by its own measure.

Losses as in training, norms and dropout as in evaluation, no gradient; weights, buffers, the counts
that losses keep, metrics and random numbers of the run stay what they were.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from d2_unsupdet.detectors import DETR
from d2_unsupdet.engine.model_state import extra_state, load_extra_state, modes_kept
from d2_unsupdet.metrics import metrics_apart
from d2_unsupdet.seeding import derive_seed, seeded

AS_IN_EVALUATION = (_NormBase, _DropoutNd, nn.MultiheadAttention)
_LAYER = re.compile(r"(_enc)?(_\d+)?$")


def image_losses(model: nn.Module, sample: dict[str, Any], *, place: int) -> dict[str, float]:
    """Weighted losses of one labelled image, by name.

    Args:
        model: a supervised detector or segmentor, inside `judging`.
        sample: Detectron2's, with its labels.
        place: of the image in its data set; decides which boxes a two-stage detector samples.
    """
    extra = extra_state(model)  # RetinaNet's count of positives moves with every loss
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), seeded("image loss", place):
        if devices:
            torch.cuda.manual_seed(derive_seed("image loss", place))
        losses = model([sample])
    for key in extra_state(model).keys() - extra.keys():  # before the first step there is none
        path, _, name = key.rpartition(".")
        delattr(model.get_submodule(path), name)
    load_extra_state(model, extra)
    values = torch.stack([value.double() for value in losses.values()]).tolist()  # one wait
    return dict(zip(losses, values, strict=True))


@contextmanager
def judging(model: nn.Module) -> Iterator[None]:
    """Inside the block the model computes losses and learns nothing from it."""
    # The losses that count over all processes; only the first one judges.
    counting: list[Any] = [module for module in model.modules() if hasattr(module, "alone")]
    with modes_kept(model):
        model.eval()
        # A DETR asks its own mode only, its parts' mode is about dropout and denoising.
        parts = [model] if isinstance(model, DETR) else list(model.modules())
        for part in parts:
            part.training = not isinstance(part, AS_IN_EVALUATION)
        for module in counting:
            module.alone = True
        try:
            # Detectron2's heads count their samples in the event storage.
            with torch.no_grad(), metrics_apart(), EventStorage(1):
                yield
        finally:
            for module in counting:
                module.alone = False


def told(losses: dict[str, float], most: int = 3) -> str:
    """ "3.2 (bbox 1.9, ce 1.3)": the sum, and the largest kinds over all layers."""
    kinds: dict[str, float] = {}
    for name, value in losses.items():
        kind = _LAYER.sub("", name, count=1).removeprefix("loss_")
        kinds[kind] = kinds.get(kind, 0.0) + value
    largest = sorted(kinds, key=lambda kind: -kinds[kind])[:most]
    parts = ", ".join(f"{kind} {kinds[kind]:.2f}" for kind in largest)
    return f"{sum(losses.values()):.2f} ({parts})"
