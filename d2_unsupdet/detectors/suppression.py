"""Non-maximum suppression within groups (classes, levels) as one operator.

Torchvision's `batched_nms` looks at its data to choose a way, which no exporter can follow; an
operator of our own stays one node in an exported graph.
"""

import torch
from torch import Tensor
from torchvision.ops import batched_nms


@torch.library.custom_op("d2_unsupdet::grouped_nms", mutates_args=())
def grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes (n, 4) xyxy that no better one of their group lies on, best first."""
    return batched_nms(boxes, scores, groups, threshold)


@grouped_nms.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    most = {"max": len(boxes)} if isinstance(boxes.shape[0], int) else {}
    count = torch.library.get_ctx().new_dynamic_size(**most)
    return boxes.new_empty(count, dtype=torch.int64)
