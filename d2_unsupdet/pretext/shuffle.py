"""Shuffle-BN (MoCo, arXiv:1911.05722, section 3.3): keys are encoded in mixed batches.

Batch statistics would otherwise tell which key belongs to which query. With one process there is
one batch and nothing to mix: the shuffle is the identity and draws no random number.
"""

import torch
from detectron2.utils import comm
from torch import Tensor

from d2_unsupdet.pretext.ranks import gather, own_rows, shared_permutation


class Shuffle:
    """One permutation of the global batch, drawn once a step and shared by all ranks.

    Whatever belongs to an image (pixels, boxes, flip flags) is sent through the same object::

        shuffle = Shuffle(rows=len(images), device=images.device)
        keys = encoder(shuffle.scatter(images))
        keys = shuffle.restore(keys)  # all ranks' keys, in the order of the original global batch

    Args:
        rows: images of this rank; the same on every rank.
        device: where the permutation lives.
        enabled: with False the keys stay on their rank and are only gathered.
    """

    def __init__(self, *, rows: int, device: torch.device, enabled: bool = True) -> None:
        self.order: Tensor | None = None
        world = comm.get_world_size()
        if enabled and world > 1:
            self.order = shared_permutation(rows * world, device)

    def scatter(self, x: Tensor) -> Tensor:
        """This rank's slice of the permuted global batch."""
        return x if self.order is None else own_rows(gather(x)[self.order])

    def restore(self, x: Tensor) -> Tensor:
        """What the ranks computed, gathered and put back into the original global order."""
        x = gather(x)
        return x if self.order is None else x[torch.argsort(self.order)]
