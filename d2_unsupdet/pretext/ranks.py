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


@torch.no_grad()
def shared_draw(rows: int, columns: int, device: torch.device) -> Tensor:
    """Uniform numbers (global rows, columns), rank 0's on every rank: what one process with the
    whole batch would draw. `rows` are this rank's."""
    numbers = torch.rand(rows * comm.get_world_size(), columns, device=device)
    if comm.get_world_size() > 1:
        dist.broadcast(numbers, src=0)
    return numbers


def mean_over(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of `values` (n,) over the `chosen` (n,) bool or weight of all ranks; 0 if there is none.

    Scaled so that DistributedDataParallel's average over ranks is that mean, also where one rank
    has fewer of them than another.
    """
    weight = chosen.to(values.dtype)
    count, world = weight.detach().sum(), comm.get_world_size()
    if world > 1:
        dist.all_reduce(count)
    # Before the sum: a value that is not chosen may be anything, even NaN.
    kept = torch.where(weight > 0, values, 0)
    mean = (kept * weight).sum() * world / count.clamp(min=torch.finfo(values.dtype).tiny)
    return mean
