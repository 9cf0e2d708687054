"""What several processes must agree on: gathered tensors and one random permutation.

Nothing here carries gradient; with one process everything is the identity.
"""

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor


@torch.no_grad()
def gather(x: Tensor) -> Tensor:
    """The rows of all ranks, in rank order. Every rank must bring the same number of rows."""
    world = comm.get_world_size()
    if world == 1:
        return x
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world)]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def own_rows(x: Tensor) -> Tensor:
    """This rank's share of a gathered tensor."""
    rows = x.shape[0] // comm.get_world_size()
    return x[comm.get_rank() * rows :][:rows]


@torch.no_grad()
def shared_permutation(length: int, device: torch.device) -> Tensor:
    """Rank 0's draw on every rank. All ranks draw, so that their generators stay in step."""
    order = torch.randperm(length, device=device)
    if comm.get_world_size() > 1:
        dist.broadcast(order, src=0)
    return order
