"""From decoder outputs to class logits and boxes, shared by all layers or one pair a layer."""

import copy
import math
from typing import Literal

import torch
from torch import Tensor, nn

from d2_unsupdet.detectors.boxes import full_precision, inverse_sigmoid
from d2_unsupdet.detectors.layers import MLP


class Heads(nn.Module):
    """A linear classifier and a three-layer box head.

    Args:
        num_classes: of the data.
        dim: channels.
        num_layers: of the decoder.
        shared: one pair of heads for all layers, as without refinement.
        background: one more class for "no object", as a softmax needs it.
        prior: probability that the classifier starts from; None keeps PyTorch's initialisation.
        box_start: "default" keeps PyTorch's initialisation; "zero" starts at the reference.
        size_bias: logit of width and height that the first box head starts from.
        eps: of the inverse sigmoid of references: 1e-5, in DAB and DN 1e-3.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        dim: int = 256,
        num_layers: int = 6,
        shared: bool = True,
        background: bool = False,
        prior: float | None = 0.01,
        box_start: Literal["default", "zero"] = "zero",
        size_bias: float = 0.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.num_classes, self.background, self.eps = num_classes, background, eps
        classifier = nn.Linear(dim, num_classes + background)
        if prior is not None:
            nn.init.constant_(classifier.bias, -math.log((1 - prior) / prior))
        boxes = box_head(dim, box_start)
        copies = 1 if shared else num_layers
        self.classes = nn.ModuleList(copy.deepcopy(classifier) for _ in range(copies))
        self.boxes = nn.ModuleList(copy.deepcopy(boxes) for _ in range(copies))
        if size_bias:
            with torch.no_grad():
                self.boxes[0].layers[-1].bias[2:] = size_bias  # type: ignore[index,union-attr]

    def classify(self, layer: int, hidden: Tensor) -> Tensor:
        return self.classes[layer % len(self.classes)](hidden)

    def locate(self, layer: int, hidden: Tensor, reference: Tensor | None) -> Tensor:
        """Boxes (cx, cy, w, h) in 0..1, relative to a reference point or box if there is one."""
        logit = full_precision(self.boxes[layer % len(self.boxes)](hidden))
        if reference is not None:
            base = inverse_sigmoid(reference, self.eps)
            if base.shape[-1] == 2:
                base = torch.cat([base, torch.zeros_like(base)], dim=-1)
            logit = logit + base
        return logit.sigmoid()


def box_head(dim: int, start: str) -> MLP:
    """Three layers to four numbers; "zero" makes the last one's output 0 at first."""
    head = MLP(dim, dim, dim, 4)
    if start == "zero":
        nn.init.zeros_(head.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(head.layers[-1].bias)  # type: ignore[arg-type]
    return head
