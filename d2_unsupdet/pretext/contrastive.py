"""InfoNCE (van den Oord et al., arXiv:1807.03748) of queries against one positive and a bank.

Never in half precision: at temperature 0.2, bf16 would round a logit of 5 to steps of 0.03.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from d2_unsupdet.errors import UserError


@dataclass(frozen=True)
class Contrast:
    """What one contrast yields, each (rows,); only `loss` carries gradient."""

    loss: Tensor
    positive: Tensor  # similarity of query and positive, before the temperature
    negative: Tensor  # mean similarity to the bank
    correct: Tensor  # 1.0 where the positive is nearer than every entry of the bank


@dataclass(frozen=True, kw_only=True)
class InfoNCE:
    """Cross-entropy over (1 + K) similarities with the positive in slot 0; one loss a row.

    ::

        contrast = InfoNCE(temperature=0.2, chunk=512)(query, positive, bank)
        contrast.loss.mean().backward()

    Args:
        temperature: divides the similarities.
        chunk: rows whose logits exist at a time; they are computed again in the backward pass.
            None keeps all logits, which is faster while they fit.
    """

    temperature: float = 0.2
    chunk: int | None = None

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise UserError(f"The temperature is {self.temperature}; it must be above 0.")
        if self.chunk is not None and self.chunk < 1:
            raise UserError(f"The chunk of logits is {self.chunk} rows; use 1 or more, or None.")

    def __call__(self, query: Tensor, positive: Tensor, bank: Tensor) -> Contrast:
        """Of `query` and `positive` (rows, dim) and `bank` (K, dim), all L2-normalised; only the
        query carries gradient."""
        with torch.autocast(query.device.type, enabled=False):
            dtype = torch.promote_types(query.dtype, torch.float32)
            query, positive, bank = (x.to(dtype) for x in (query, positive.detach(), bank.detach()))
            if self.chunk is None or self.chunk >= len(query):
                return Contrast(*_rows(query, positive, bank, self.temperature))
            parts = [
                checkpoint(
                    _rows,
                    q,
                    p,
                    bank,
                    self.temperature,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
                for q, p in zip(query.split(self.chunk), positive.split(self.chunk), strict=True)
            ]
            return Contrast(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _rows(
    query: Tensor, positive: Tensor, bank: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    near = (query * positive).sum(dim=1, keepdim=True)
    far = query @ bank.T
    logits = torch.cat([near, far], dim=1) / temperature  # (rows, 1 + K)
    slot = torch.zeros(len(query), dtype=torch.long, device=query.device)
    loss = F.cross_entropy(logits, slot, reduction="none")
    near, far = near.detach()[:, 0], far.detach()
    return loss, near, far.mean(dim=1), (near > far.amax(dim=1)).float()
