"""RegionSim (DenseSiam, arXiv:2203.11075): pseudo-categories of one image, contrasted in it.

As the official segmentation code has it: soft masks carry gradient, a region is the plain sum of
its features, the keys are not detached, and the other regions of the image are the negatives.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def region_embeddings(logits: Tensor, features: Tensor) -> Tensor:
    """Features summed under each pseudo-category's soft mask: (batch, regions, channels).

    Args:
        logits: (batch, regions, positions); a softmax over the regions makes the masks.
        features: (batch, channels, positions).
    """
    with torch.autocast(logits.device.type, enabled=False):
        dtype = torch.promote_types(logits.dtype, torch.float32)
        masks = F.softmax(logits.to(dtype), dim=1)
        return masks @ features.to(dtype).transpose(1, 2)


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
