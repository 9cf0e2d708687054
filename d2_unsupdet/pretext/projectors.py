"""Heads that turn feature maps into embeddings: contrastive (no BN) and siamese (with BN)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ImageProjector(nn.Module):
    """MoCo v2's head (arXiv:2003.04297): average pool, Linear-ReLU-Linear, L2 norm; no BN.

    ::

        head = ImageProjector(in_dim=2048, out_dim=128)
        head(torch.rand(4, 2048, 7, 7))  # (4, 128), rows of length 1

    Args:
        in_dim: channels of the feature map; also the hidden width, as in MoCo v2.
        out_dim: length of the embedding.
    """

    def __init__(self, *, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_dim, in_dim)
        self.out = nn.Linear(in_dim, out_dim)

    def forward(self, feature: Tensor) -> Tensor:
        x = feature.mean(dim=(2, 3))  # (batch, in_dim)
        return unit(self.out(F.relu(self.hidden(x))))


class PatchProjector(nn.Module):
    """The same head at every position of a map, as 1x1 convolutions (DUPR, arXiv:2103.04814).

    ::

        head = PatchProjector(in_dim=2048, out_dim=128)
        head(torch.rand(4, 2048, 7, 7))  # (4, 128, 7, 7), unit vectors along dim 1

    Args:
        in_dim: channels of the feature map; also the hidden width.
        out_dim: length of the embedding.
    """

    def __init__(self, *, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(in_dim, in_dim, 1)
        self.out = nn.Conv2d(in_dim, out_dim, 1)

    def forward(self, patches: Tensor) -> Tensor:
        return unit(self.out(F.relu(self.hidden(patches))))


def siamese_projector(
    dims: Sequence[int], *, convolutional: bool = False, last_bias: bool = False
) -> nn.Sequential:
    """SimSiam's projector (arXiv:2011.10566): layer-BN-ReLU and so on, layer-BN without affine.

    Args:
        dims: widths from input to output, e.g. (2048, 2048, 2048, 2048) for three layers.
        convolutional: 1x1 convolutions on maps instead of linear layers on vectors.
        last_bias: a bias in the last layer; the BN behind it takes it out again.
    """
    layers: list[nn.Module] = []
    for number, (narrow, wide) in enumerate(zip(dims, dims[1:], strict=False), 2):
        last = number == len(dims)
        layers.append(_layer(narrow, wide, convolutional, bias=last and last_bias))
        layers.append(_norm(wide, convolutional, affine=not last))
        if not last:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def siamese_predictor(dim: int, hidden: int, *, convolutional: bool = False) -> nn.Sequential:
    """SimSiam's predictor: layer-BN-ReLU to `hidden`, and a layer with bias back to `dim`."""
    return nn.Sequential(
        _layer(dim, hidden, convolutional, bias=False),
        _norm(hidden, convolutional),
        nn.ReLU(inplace=True),
        _layer(hidden, dim, convolutional, bias=True),
    )


def _layer(narrow: int, wide: int, convolutional: bool, *, bias: bool) -> nn.Module:
    if convolutional:
        return nn.Conv2d(narrow, wide, 1, bias=bias)
    return nn.Linear(narrow, wide, bias=bias)


def _norm(dim: int, convolutional: bool, *, affine: bool = True) -> nn.Module:
    kind = nn.BatchNorm2d if convolutional else nn.BatchNorm1d
    return kind(dim, affine=affine)


def unit(x: Tensor) -> Tensor:
    """L2-normalised over the channels (dim 1), at least in fp32 whatever autocast says."""
    with torch.autocast(x.device.type, enabled=False):
        return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=1)
