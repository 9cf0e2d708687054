"""Heads that turn feature maps into unit vectors for a contrast."""

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


def unit(x: Tensor) -> Tensor:
    """L2-normalised over the channels (dim 1), at least in fp32 whatever autocast says."""
    with torch.autocast(x.device.type, enabled=False):
        return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=1)
