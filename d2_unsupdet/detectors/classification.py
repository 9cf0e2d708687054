"""Class losses over all layers at once: focal for sigmoid heads, cross-entropy with background."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from d2_unsupdet.detectors.boxes import full_precision

Index = tuple[Tensor, Tensor, Tensor]  # layer, image and query of each matched pair


class FocalLoss(nn.Module):
    """Sum over queries and classes, divided by the number of objects (arXiv:1708.02002).

    Args:
        alpha: weight of the positives.
        gamma: how fast easy examples lose weight.
    """

    background = False

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0) -> None:
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    def forward(
        self,
        logits: Tensor,
        index: Index,
        labels: Tensor,
        count: Tensor,
        ignored: Tensor | None = None,
    ) -> Tensor:
        """(D, B, N, K) to (D,); `ignored`, spread to (B, N, K), has no say."""
        logits = full_precision(logits)
        # A query with two targets has one class: that written last (on a GPU, any one of them).
        wanted = torch.full(logits.shape[:-1], -1, device=logits.device)
        wanted[index] = labels
        classes = torch.arange(logits.shape[-1], device=logits.device)
        goal = (wanted[..., None] == classes).to(logits.dtype)
        loss = sigmoid_focal_loss(logits, goal, self.alpha, self.gamma)
        if ignored is not None:
            loss = loss.masked_fill(ignored, 0)
        return loss.flatten(1).sum(1) / count


class SoftmaxLoss(nn.Module):
    """Cross-entropy with "no object" as the last class; a mean weighted by class (DETR).

    Args:
        no_object: weight of that class.
    """

    background = True

    def __init__(self, *, no_object: float = 0.1) -> None:
        super().__init__()
        self.no_object = no_object

    def forward(
        self,
        logits: Tensor,
        index: Index,
        labels: Tensor,
        count: Tensor,
        ignored: Tensor | None = None,
    ) -> Tensor:
        """(D, B, N, K + 1) to (D,); queries that are `ignored` (B, N, 1) have no say."""
        logits = full_precision(logits)
        layers, last = logits.shape[0], logits.shape[-1] - 1
        goal = torch.full(logits.shape[:-1], last, device=logits.device)
        goal[index] = labels
        weight = logits.new_ones(last + 1)
        weight[last] = self.no_object
        importance = weight[goal]
        if ignored is not None:
            importance = importance.masked_fill(ignored.squeeze(-1), 0)
        loss = F.cross_entropy(logits.flatten(0, 2), goal.flatten(), reduction="none")
        loss = loss.view(layers, -1) * importance.view(layers, -1)
        return loss.sum(1) / importance.view(layers, -1).sum(1)
