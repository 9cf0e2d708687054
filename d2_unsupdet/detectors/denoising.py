"""Denoising queries (DN-DETR, arXiv:2203.01305): the decoder repairs noised ground truth."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from d2_unsupdet.detectors.boxes import inverse_sigmoid
from d2_unsupdet.detectors.structures import DenoisingQueries, Target


class Denoising(nn.Module):
    """Groups of noised copies of all targets.

    Args:
        num_classes: of the data; the table has one more row, as the original's.
        dim: channels; the last one says "denoising".
        groups: noised copies of each target.
        label_noise: chance that a label becomes a random one.
        box_noise: most shift of a centre as a share of half the side, and of a side.
        eps: of the inverse sigmoid.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        dim: int = 256,
        groups: int = 5,
        label_noise: float = 0.2,
        box_noise: float = 0.4,
        eps: float = 1e-3,
    ) -> None:
        super().__init__()
        self.num_classes, self.groups, self.eps = num_classes, groups, eps
        self.label_noise, self.box_noise = label_noise, box_noise
        self.labels = nn.Embedding(num_classes + 1, dim - 1)

    def forward(self, targets: Sequence[Target]) -> DenoisingQueries:
        """No slots where no image has an object."""
        counts = [len(t) for t in targets]
        labels = torch.cat([t.labels for t in targets]).repeat(self.groups)
        boxes = torch.cat([t.boxes for t in targets]).repeat(self.groups, 1)
        image, slot, group = _places(counts, self.groups, labels.device)
        chance = torch.rand(len(labels), device=labels.device)
        others = torch.randint(self.num_classes, labels.shape, device=labels.device)
        shift = torch.rand(boxes.shape, device=labels.device, dtype=boxes.dtype) * 2 - 1
        content, logit = self.embed(
            noised_labels(labels, others, chance < self.label_noise),
            noised_boxes(boxes, shift * self.box_noise),
        )
        all_content = content.new_zeros(len(targets), len(group), content.shape[-1])
        all_logit = logit.new_zeros(len(targets), len(group), 4)
        all_content = all_content.index_put((image, slot), content)
        all_logit = all_logit.index_put((image, slot), logit)
        return DenoisingQueries(
            all_content, all_logit, group, image, slot, labels, boxes, self.groups
        )

    def embed(self, labels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Content (t, C) with the indicator, and reference logits (t, 4)."""
        content = torch.nn.functional.pad(self.labels(labels), (0, 1), value=1.0)
        return content, inverse_sigmoid(boxes, self.eps)


def noised_labels(labels: Tensor, others: Tensor, replaced: Tensor) -> Tensor:
    """The other label where `replaced`."""
    return torch.where(replaced, others, labels)


def noised_boxes(boxes: Tensor, shift: Tensor) -> Tensor:
    """Centres move by shift times half the side, sides grow by shift times themselves."""
    scale = torch.cat([boxes[:, 2:] / 2, boxes[:, 2:]], dim=1)
    return (boxes + shift * scale).clamp(0, 1)


def _places(
    counts: Sequence[int], groups: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Image and slot of every copy, ordered by group, and the group of every slot."""
    most = max(counts)
    image = torch.cat([torch.full((n,), b) for b, n in enumerate(counts)]).repeat(groups)
    within = torch.cat([torch.arange(n) for n in counts]).repeat(groups)
    copy = torch.arange(groups).repeat_interleave(sum(counts))
    group = torch.arange(groups).repeat_interleave(most)
    places = (image, copy * most + within, group)
    on_device = [place.to(device, non_blocking=True) for place in places]
    return on_device[0], on_device[1], on_device[2]
