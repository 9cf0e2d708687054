"""A bank of past keys (MoCo, arXiv:1911.05722) with a pointer of its own and wrap-around writes.

The original demands that the bank's size be a multiple of the global batch; here a write that
passes the end continues at the start, so any size that holds one batch will do.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2_unsupdet.errors import UserError
from d2_unsupdet.seeding import derive_seed


class KeyQueue(nn.Module):
    """First-in-first-out bank of L2-normalised keys; a buffer, so it is saved with the model.

    It starts with random unit vectors that are the same on every rank and in every run::

        queue = KeyQueue(size=65536, dim=128)
        loss = InfoNCE(temperature=0.2)(query, positive, queue.keys).loss.mean()
        queue.enqueue(positive)

    Args:
        size: keys the bank holds; on small data keep it below the number of images.
        dim: length of a key.
        name: tells banks of one model apart: it seeds the random start and appears in errors.
    """

    keys: Tensor
    pointer: Tensor

    def __init__(self, *, size: int, dim: int, name: str = "keys") -> None:
        super().__init__()
        if size < 1:
            raise UserError(
                f"The bank '{name}' has queue size {size}; it must hold at least one key."
            )
        self.name = name
        generator = torch.Generator().manual_seed(derive_seed("key queue", name))
        start = torch.randn(size, dim, generator=generator, device="cpu")
        self.register_buffer("keys", F.normalize(start, dim=1))  # (size, dim)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Overwrite the oldest entries with `keys` (n, dim), the same on every rank."""
        size = self.keys.shape[0]
        if len(keys) > size:
            raise UserError(
                f"The bank '{self.name}' holds {size} keys but one step brings {len(keys)}; "
                f"set the queue size to at least {len(keys)} or use a smaller batch."
            )
        # Positions are computed on the device: reading the pointer would wait for it.
        slots = (self.pointer + torch.arange(len(keys), device=self.keys.device)) % size
        self.keys.index_copy_(0, slots, keys.to(self.keys.dtype))
        self.pointer.add_(len(keys)).remainder_(size)

    def extra_repr(self) -> str:
        return f"name={self.name}, size={self.keys.shape[0]}, dim={self.keys.shape[1]}"
