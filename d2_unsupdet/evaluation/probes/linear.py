"""A linear classifier on frozen features, by MoCo's protocol (SGD) or SimSiam's (LARS).

arXiv:1911.05722 and 2011.10566. With features that were computed once there is no augmentation,
which is fast and costs accuracy; `Epochs` gives other crops in each epoch instead.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from d2_unsupdet.engine.lars import LARS
from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation.probes.features import chunks

Epochs = Callable[[int], Tensor]  # epoch -> (items, dim), always the same items


@dataclass(frozen=True, kw_only=True)
class LinearProtocol:
    """How the classifier is trained.

    Args:
        optimizer: "sgd" or "lars".
        lr: at a batch of 256, to which it is proportional.
        batch: items a step; all, where there are fewer.
        epochs: passes over the items.
        drops: epochs after which the rate is a tenth; none means a cosine to 0.
        weight_decay: of weights and biases.
    """

    optimizer: str
    lr: float
    batch: int
    epochs: int
    drops: tuple[int, ...] = ()
    weight_decay: float = 0.0

    def rate(self, progress: float) -> float:
        """Factor on the rate at a share of the run; drops keep their share in shorter runs."""
        if not self.drops:
            return (1 + math.cos(math.pi * progress)) / 2
        return 0.1 ** sum(progress >= drop / self.epochs for drop in self.drops)


SGD_PROTOCOL = LinearProtocol(optimizer="sgd", lr=30.0, batch=256, epochs=100, drops=(60, 80))
LARS_PROTOCOL = LinearProtocol(optimizer="lars", lr=0.1, batch=4096, epochs=90)


def linear_scores(
    train: Tensor | Epochs,
    targets: Tensor,
    test: Tensor,
    *,
    single: bool,
    protocol: LinearProtocol = SGD_PROTOCOL,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """Logits (n, classes) of a classifier trained on `train`, whose rows are `targets`' rows.

    Args:
        train: (m, dim) features, or those of each epoch.
        targets: (m, classes) of 1, 0, -1; the last takes no part.
        test: (n, dim) features.
        single: one class an item (softmax), or any number of them (a sigmoid each).
        protocol: how it is trained.
        seed: of weights and order.
        progress: whether to show a bar.
    """
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(test.shape[1], targets.shape[1])
    nn.init.normal_(layer.weight, std=0.01, generator=generator)
    nn.init.zeros_(layer.bias)
    layer.to(test.device)
    items, batch = len(targets), min(protocol.batch, len(targets))
    optimizer = _optimizer(protocol, layer, batch)
    parts = list(chunks(items, batch))
    steps = protocol.epochs * len(parts)
    for epoch in tqdm(range(protocol.epochs), desc="linear", disable=not progress):
        features = train if isinstance(train, Tensor) else train(epoch)
        order = torch.randperm(items, generator=generator)
        for number, part in enumerate(parts):
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * protocol.rate(
                    (epoch * len(parts) + number) / steps
                )
            rows = order[part]
            loss = _loss(layer(features[rows].to(test)), targets[rows].to(test.device), single)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        scores = layer(test)
    if not scores.isfinite().all():
        raise UserError(
            f"The linear probe diverged (rate {protocol.lr:g} at a batch of 256); try a lower "
            "--lr, these features are longer than the protocol's."
        )
    return scores


def _optimizer(protocol: LinearProtocol, layer: nn.Module, batch: int) -> torch.optim.Optimizer:
    rate = protocol.lr * batch / 256
    settings: dict[str, Any] = {"lr": rate, "momentum": 0.9, "weight_decay": protocol.weight_decay}
    optimizer: torch.optim.Optimizer
    if protocol.optimizer == "sgd":
        optimizer = torch.optim.SGD(layer.parameters(), **settings)
    elif protocol.optimizer == "lars":
        optimizer = LARS(layer.parameters(), **settings)
    else:
        raise UserError(f"The optimizer '{protocol.optimizer}' is neither 'sgd' nor 'lars'.")
    for group in optimizer.param_groups:
        group["initial_lr"] = rate
    return optimizer


def _loss(logits: Tensor, targets: Tensor, single: bool) -> Tensor:
    if single:
        return F.cross_entropy(logits, targets.argmax(1))
    used = (targets != -1).to(logits)
    each = F.binary_cross_entropy_with_logits(logits, (targets == 1).to(logits), reduction="none")
    return (each * used).sum() / used.sum().clamp(min=1)
