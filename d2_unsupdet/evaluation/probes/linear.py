"""A linear classifier on frozen features: MoCo's protocol (SGD), SimSiam's (LARS), Places'.

arXiv:1911.05722 and 2011.10566. With features that were computed once there is no augmentation,
which is fast and costs accuracy; a `Stream` computes them anew in each epoch, a batch at a time, so
that neither 1.8 million images nor maps of 100,352 values have to be held.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from d2_unsupdet.engine.lars import LARS
from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation.probes.features import chunks

Batches = Iterable[tuple[Tensor, Tensor]]  # rows, and their features (rows, dim)
# epoch, rows of each batch -> the batches; rows whose image cannot be read may be left out
Stream = Callable[[int, Sequence[Tensor]], Batches]


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
        nesterov: whether SGD looks ahead.
        norm: a batch norm without scale and shift before the classifier.
        shifted: how new crops are drawn, see `ProbeImages`.
    """

    optimizer: str
    lr: float
    batch: int
    epochs: int
    drops: tuple[float, ...] = ()
    weight_decay: float = 0.0
    nesterov: bool = False
    norm: bool = False
    shifted: bool = False

    def rate(self, progress: float) -> float:
        """Factor on the rate at a share of the run; drops keep their share in shorter runs."""
        if not self.drops:
            return (1 + math.cos(math.pi * progress)) / 2
        return 0.1 ** sum(progress >= drop / self.epochs for drop in self.drops)


SGD_PROTOCOL = LinearProtocol(optimizer="sgd", lr=30.0, batch=256, epochs=100, drops=(60, 80))
LARS_PROTOCOL = LinearProtocol(optimizer="lars", lr=0.1, batch=4096, epochs=90)
# OpenSelfSup's of Places205. DUPR trains 56 epochs on Places365; drops at twice these are ours.
PLACES_PROTOCOL = LinearProtocol(
    optimizer="sgd",
    lr=0.01,
    batch=256,
    epochs=28,
    drops=(7, 14, 21),
    weight_decay=1e-4,
    nesterov=True,
    norm=True,
    shifted=True,
)


def linear_scores(
    train: Tensor | Stream,
    targets: Tensor,
    test: Tensor | Callable[[], Batches],
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
        test: (n, dim) features, or batches of them.
        single: one class an item (softmax), or any number of them (a sigmoid each).
        protocol: how it is trained.
        seed: of weights and order.
        progress: whether to show a bar.
    """
    generator = torch.Generator().manual_seed(seed)
    items, batch = len(targets), min(protocol.batch, len(targets))
    parts = list(chunks(items, batch))
    steps, layer, optimizer = protocol.epochs * len(parts), None, None
    for epoch in tqdm(range(protocol.epochs), desc="linear", disable=not progress):
        if layer is None and isinstance(test, Tensor):
            layer = _classifier(test, targets.shape[1], protocol, generator)
        order = torch.randperm(items, generator=generator)
        rows_of = [order[part] for part in parts]
        for number, (rows, features) in enumerate(_batches(train, epoch, rows_of)):
            if layer is None:
                layer = _classifier(features, targets.shape[1], protocol, generator)
            optimizer = optimizer or _optimizer(protocol, layer, batch)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * protocol.rate(
                    (epoch * len(parts) + number) / steps
                )
            device = next(layer.parameters()).device
            if protocol.norm and len(rows) == 1:
                continue  # one item has no spread
            loss = _loss(layer(features.to(device)), targets[rows].to(device), single)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    if layer is None or optimizer is None:
        raise UserError("No image of the probe's training set can be read.")
    scores = _score(layer.eval(), test)
    if not scores.isfinite().all():
        raise UserError(
            f"The linear probe diverged (rate {protocol.lr:g} at a batch of 256); try a lower "
            "--lr, these features are longer than the protocol's."
        )
    return scores


def _batches(train: Tensor | Stream, epoch: int, rows_of: Sequence[Tensor]) -> Batches:
    if not isinstance(train, Tensor):
        return train(epoch, rows_of)
    return ((rows, train[rows]) for rows in rows_of)


def _classifier(
    like: Tensor, classes: int, protocol: LinearProtocol, generator: torch.Generator
) -> nn.Sequential:
    """An optional norm, and a linear layer of the width and on the device of `like`."""
    width = like.shape[1]
    layer = nn.Linear(width, classes)
    nn.init.normal_(layer.weight, std=0.01, generator=generator)
    nn.init.zeros_(layer.bias)
    norm = nn.BatchNorm1d(width, affine=False) if protocol.norm else nn.Identity()
    return nn.Sequential(norm, layer).to(like.device)


@torch.no_grad()
def _score(layer: nn.Sequential, test: Tensor | Callable[[], Batches]) -> Tensor:
    if isinstance(test, Tensor):
        return layer(test)
    device = next(layer.parameters()).device
    scores = [layer(features.to(device)).cpu() for _, features in test()]
    if not scores:
        raise UserError("No image of the probe's test set can be read.")
    return torch.cat(scores)


def _optimizer(protocol: LinearProtocol, layer: nn.Module, batch: int) -> torch.optim.Optimizer:
    rate = protocol.lr * batch / 256
    settings: dict[str, Any] = {"lr": rate, "momentum": 0.9, "weight_decay": protocol.weight_decay}
    optimizer: torch.optim.Optimizer
    if protocol.optimizer == "sgd":
        settings["nesterov"] = protocol.nesterov
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
