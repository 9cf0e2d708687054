"""InfoNCE (van den Oord et al., arXiv:1807.03748) of queries against one positive and a bank.

Never in half precision: at temperature 0.2, bf16 would round a logit of 5 to steps of 0.03.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Contrast:
    """What one contrast yields, each (rows,); only `loss` carries gradient."""

    loss: Tensor
    positive: Tensor  # similarity of query and positive, before the temperature
    negative: Tensor  # mean similarity to the bank
    correct: Tensor  # 1.0 where the positive is nearer than every entry of the bank


def info_nce(
    query: Tensor,
    positive: Tensor,
    bank: Tensor,
    *,
    temperature: float,
    chunk: int | None = None,
) -> Contrast:
    """Cross-entropy over (1 + K) similarities with the positive in slot 0; one loss a row.

    Args:
        query: (rows, dim), L2-normalised, carries gradient.
        positive: (rows, dim), L2-normalised.
        bank: (K, dim), L2-normalised, constant.
        temperature: divides the similarities.
        chunk: rows whose logits exist at a time; they are computed again in the backward pass.
            None keeps all logits, which is faster while they fit.
    """
    with torch.autocast(query.device.type, enabled=False):
        dtype = torch.promote_types(query.dtype, torch.float32)
        query, positive, bank = (x.to(dtype) for x in (query, positive.detach(), bank.detach()))
        if chunk is None or chunk >= len(query):
            return Contrast(*_rows(query, positive, bank, temperature))
        parts = [
            checkpoint(
                _rows, q, p, bank, temperature, use_reentrant=False, preserve_rng_state=False
            )
            for q, p in zip(query.split(chunk), positive.split(chunk), strict=True)
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
