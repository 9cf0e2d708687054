"""What flows between the five steps of a DETR-style detector.

B images, S tokens of all levels, N queries, D decoder layers, C channels, K class logits. Masks are
True on padding; boxes are (cx, cy, w, h), normalised by the unpadded image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Target:
    """The objects of one image.

    Args:
        labels: (n,) class indices.
        boxes: (n, 4) cxcywh in 0..1.
        name: how messages call the image.
    """

    labels: Tensor
    boxes: Tensor
    name: str = "?"

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Features:
    """The backbone's maps [(B, C_l, H_l, W_l)], mask (B, H, W) and sizes (B, 2) as (h, w)."""

    maps: list[Tensor]
    mask: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class ProposalSet:
    """The encoder stage: a score, a box and an anchor for every token, and the best of them.

    Args:
        logits: (B, S, classes); channel 0 is objectness.
        boxes_logit: (B, S, 4), infinite where the token is no proposal.
        anchors: (B, S, 4) in 0..1, all ones where the token is no proposal.
        tokens: (B, S, C) what the heads see.
        selected: (B, k) token indices, best first.
    """

    logits: Tensor
    boxes_logit: Tensor
    anchors: Tensor
    tokens: Tensor
    selected: Tensor

    @property
    def boxes(self) -> Tensor:
        return self.boxes_logit.sigmoid()

    def take(self, values: Tensor) -> Tensor:
        """The rows (B, k, ...) of the selected tokens."""
        return values.gather(1, self.selected[..., None].expand(-1, -1, values.shape[-1]))


@dataclass(frozen=True)
class Encoded:
    """The encoder's output: memory, position (B, S, C), mask (B, S), shapes [(H_l, W_l)].

    valid_ratios (B, L, 2): the share of each level's width and height that is no padding.
    """

    memory: Tensor
    mask: Tensor
    position: Tensor
    shapes: list[tuple[int, int]]
    valid_ratios: Tensor
    proposals: ProposalSet | None = None

    def level(self, index: int) -> Tensor:
        """The memory of one level as a map (B, C, H_l, W_l)."""
        start = sum(h * w for h, w in self.shapes[:index])
        height, width = self.shapes[index]
        tokens = self.memory[:, start : start + height * width]
        return tokens.transpose(1, 2).unflatten(2, (height, width))


@dataclass(frozen=True)
class DenoisingQueries:
    """Noised ground truth as queries: D slots, of which each image uses some.

    Args:
        content: (B, D, C).
        reference_logit: (B, D, 4).
        group: (D,) no slot sees another group.
        image, slot: (t,) where each of the t clean targets sits.
        labels, boxes: (t,), (t, 4) what each should become.
    """

    content: Tensor
    reference_logit: Tensor
    group: Tensor
    image: Tensor
    slot: Tensor
    labels: Tensor
    boxes: Tensor
    groups: int


@dataclass(frozen=True)
class Queries:
    """Decoder input: content, position (B, N, C), reference_logit (B, N, 2 or 4), group (N,)."""

    content: Tensor
    position: Tensor | None = None
    reference_logit: Tensor | None = None
    group: Tensor | None = None
    denoising: DenoisingQueries | None = None

    def attention_mask(self) -> Tensor | None:
        """(D + N, D + N), True where a query (row) must not see another; None lets all see all."""
        if self.group is None and self.denoising is None:
            return None
        count, device = self.content.shape[1], self.content.device
        own = torch.zeros(count, count, dtype=torch.bool, device=device)
        if self.group is not None:
            own = self.group[:, None] != self.group
        if self.denoising is None:
            return own
        slots = self.denoising.group
        total = len(slots) + count
        mask = torch.zeros(total, total, dtype=torch.bool, device=device)
        mask[: len(slots), : len(slots)] = slots[:, None] != slots
        mask[len(slots) :, : len(slots)] = True  # the answers stay hidden from matching queries
        mask[len(slots) :, len(slots) :] = own
        return mask


@dataclass(frozen=True)
class Decoded:
    """All decoder layers: hidden (D, B, N, C), logits (D, B, N, K), boxes (D, B, N, 4).

    reference: (B, N, 2 or 4) what the first layer started from; denoising: the same of its slots.
    """

    hidden: Tensor
    logits: Tensor
    boxes: Tensor
    reference: Tensor | None = None
    denoising: "Decoded | None" = None

    def split(self, slots: int) -> "Decoded":
        """Separate the first `slots` queries, which are denoising's."""

        def part(where: slice) -> Decoded:
            reference = None if self.reference is None else self.reference[:, where]
            return Decoded(
                self.hidden[:, :, where],
                self.logits[:, :, where],
                self.boxes[:, :, where],
                reference,
            )

        rest = part(slice(slots, None))
        noised = part(slice(None, slots))
        return Decoded(rest.hidden, rest.logits, rest.boxes, rest.reference, noised)


@dataclass(frozen=True)
class Match:
    """Which query (or token) of each image learns which of its targets; indices on the CPU."""

    queries: list[Tensor]
    targets: list[Tensor]

    def pair(self, image: int) -> tuple[Tensor, Tensor]:
        return self.queries[image], self.targets[image]

    def __len__(self) -> int:
        return len(self.queries)


@dataclass(frozen=True)
class Matches:
    """`layers`: a Match for each decoder layer; `encoder`: that of the encoder stage, if any."""

    layers: list[Match]
    encoder: Match | None = None

    def __getitem__(self, layer: int) -> Match:
        return self.layers[layer]


@dataclass(frozen=True)
class Detections:
    """One image's answers: scores, labels (n,), boxes (n, 4) xyxy in pixels, unclipped."""

    scores: Tensor
    labels: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Regions:
    """Embeddings of image patches that condition queries: N / M neighbouring queries share one.

    Args:
        values: (B, M, C).
        keep: (B, N), 0 where a query goes without its region; None keeps all.
        each: queries of a region, so that fewer than N are used; None shares all N equally.
    """

    values: Tensor
    keep: Tensor | None = None
    each: int | None = None

    def __len__(self) -> int:
        return self.values.shape[1]


def group_of(queries: int, regions: int, device: torch.device) -> Tensor:
    """(N,) the region of each query: N / M neighbours share one."""
    return torch.arange(queries, device=device) // (queries // regions)
