"""RegionSim (DenseSiam, arXiv:2203.11075): pseudo-categories of one image, contrasted in it.

As the official segmentation code has it: soft masks carry gradient, a region is the plain sum of
its features, the keys are not detached, and the other regions of the image are the negatives.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def region_embeddings(logits: Tensor, features: Tensor, chosen: Tensor | None = None) -> Tensor:
    """Features summed under each pseudo-category's soft mask: (batch, regions, channels).

    Args:
        logits: (batch, categories, positions); a softmax over the categories makes the masks.
        features: (batch, channels, positions).
        chosen: (batch, regions), the categories of each image that are wanted; None takes all.
    """
    with torch.autocast(logits.device.type, enabled=False):
        masks = region_masks(logits)
        if chosen is not None:
            masks = masks.gather(1, chosen[..., None].expand(-1, -1, masks.shape[2]))
        return masks @ features.to(masks.dtype).transpose(1, 2)


def region_masks(logits: Tensor) -> Tensor:
    """Each position's shares in the categories, (batch, categories, positions), at least fp32."""
    return F.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=1)


@torch.no_grad()
def shared_regions(first: Tensor, second: Tensor, count: int) -> Tensor:
    """The categories of each image that cover most in the view where they cover less.

    Args:
        first: logits of one view, (batch, categories, positions).
        second: logits of the other view.
        count: how many are wanted; all of them where there are fewer.

    Returns:
        (batch, count), the largest first.
    """
    mass = torch.minimum(*(region_masks(logits).sum(dim=2) for logits in (first, second)))
    return mass.topk(min(count, mass.shape[1]), dim=1).indices


def region_contrast(query: Tensor, key: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE within each image: region n of the query must find region n of the key, (batch,).

    Args:
        query: (batch, regions, channels), normalised here.
        key: (batch, regions, channels), normalised here.
        temperature: divides the similarities; 0.1 in the official code.
    """
    with torch.autocast(query.device.type, enabled=False):
        dtype = torch.promote_types(query.dtype, torch.float32)
        query, key = F.normalize(query.to(dtype), dim=-1), F.normalize(key.to(dtype), dim=-1)
        logits = query @ key.transpose(1, 2) / temperature  # (batch, regions, regions)
        return -F.log_softmax(logits, dim=-1).diagonal(dim1=1, dim2=2).mean(dim=1)
