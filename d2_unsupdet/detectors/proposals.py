"""The encoder stage of two-stage detectors: every token is scored, boxed, and the best go on.

Deformable DETR (arXiv:2010.04159) takes the best scores; DETA (arXiv:2212.06137) thins them out by
non-maximum suppression and gives each level its share.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2_unsupdet.detectors.boxes import full_precision, to_xyxy
from d2_unsupdet.detectors.encoder import token_centres
from d2_unsupdet.detectors.heads import box_head
from d2_unsupdet.detectors.layers import xavier
from d2_unsupdet.detectors.structures import Encoded, ProposalSet
from d2_unsupdet.detectors.suppression import grouped_nms

Shapes = Sequence[tuple[int, int]]


class TopTokens(nn.Module):
    """The tokens with the highest objectness."""

    def __init__(self) -> None:  # without it, nn.Module's takes any keyword
        super().__init__()

    def forward(self, rank: Tensor, boxes: Tensor, shapes: Shapes, count: int) -> Tensor:
        return rank.topk(count, dim=1).indices


class SpreadTokens(nn.Module):
    """DETA's choice: near-copies go, and each level has an equal share as far as it can fill it.

    Args:
        candidates: tokens of each level that are looked at.
        threshold: IoU above which the lower-scored of two boxes of a level goes.
    """

    def __init__(self, *, candidates: int = 1000, threshold: float = 0.9) -> None:
        super().__init__()
        self.candidates, self.threshold = candidates, threshold

    def forward(self, rank: Tensor, boxes: Tensor, shapes: Shapes, count: int) -> Tensor:
        """
        Args:
            rank: (B, S) objectness, -inf for tokens that are no proposals.
            boxes: (B, S, 4) cxcywh.
        """
        level = torch.cat(
            [torch.full((h * w,), i, device=rank.device) for i, (h, w) in enumerate(shapes)]
        )
        kept = self._survivors(rank, boxes, level, shapes)
        order = rank.argsort(dim=1, descending=True, stable=True)
        kept = kept.gather(1, order)
        own = F.one_hot(level[order], len(shapes)) * kept[..., None]
        # 1 for a level's best survivor, 2 for the next
        place = own.cumsum(1).gather(2, level[order][..., None])[..., 0]
        quota = kept & (place <= count // len(shapes))
        rest = kept & ~quota
        room = count - quota.sum(1, keepdim=True)
        chosen = quota | (rest & (rest.cumsum(1) <= room))
        # With too few survivors: plain best, as the original.
        enough = kept.sum(1, keepdim=True) >= count
        best = torch.arange(rank.shape[1], device=rank.device) < count
        chosen = (enough & chosen) | (~enough & best)
        first = chosen.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :count]
        return order.gather(1, first)

    def _survivors(self, rank: Tensor, boxes: Tensor, level: Tensor, shapes: Shapes) -> Tensor:
        """(B, S) bool: among its level's best and not suppressed."""
        kept = torch.zeros_like(rank, dtype=torch.bool)
        best, start = [], 0
        for height, width in shapes:
            part = rank[:, start : start + height * width]
            best.append(start + part.topk(min(self.candidates, part.shape[1]), dim=1).indices)
            start += height * width
        index = torch.cat(best, dim=1)  # (B, candidates)
        corners = to_xyxy(boxes).clamp(0, 1)
        # Image by image: what survives must not depend on the others of the batch.
        for image, tokens in enumerate(index):
            scores = rank[image, tokens]
            left = grouped_nms(corners[image, tokens], scores, level[tokens], self.threshold)
            kept[image, tokens[left]] = scores[left] > -math.inf
        return kept


class Proposals(nn.Module):
    """Score and box every token; choose those that become queries.

    >>> proposals = Proposals(num_proposals=300)(encoded)

    Args:
        num_proposals: chosen, or all tokens where there are fewer.
        dim: channels.
        score_channels: 1 is objectness; the originals have as many logits as there are classes, of
            which only the first is ever positive.
        anchor_size: of the finest level's anchors, as a share of the image.
        anchor_growth: from each level to the next (DETA's paper prints sizes 0.1 * 2^-l: 0.1 and
            0.5; all released code has 0.05 * 2^l).
        select: `TopTokens` or `SpreadTokens`.
        prior: probability that the classifier starts from.
        ignore_padding: tokens of the padding, and those without a usable anchor, are chosen last.
            In the originals their one common score competes with the others'.
        teaches_encoder: whether the losses of this stage reach the encoder. A pretext whose boxes
            say nothing about objects trains this stage alone.
    """

    def __init__(
        self,
        *,
        num_proposals: int,
        dim: int = 256,
        score_channels: int = 1,
        anchor_size: float = 0.05,
        anchor_growth: float = 2.0,
        select: nn.Module | None = None,
        prior: float = 0.01,
        ignore_padding: bool = True,
        teaches_encoder: bool = True,
    ) -> None:
        super().__init__()
        self.num_proposals, self.ignore_padding = num_proposals, ignore_padding
        self.teaches_encoder = teaches_encoder
        self.anchor_size, self.anchor_growth = anchor_size, anchor_growth
        self.select = TopTokens() if select is None else select
        self.project, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim)
        self.classes, self.boxes = nn.Linear(dim, score_channels), box_head(dim, "zero")
        xavier(self.project)
        nn.init.constant_(self.classes.bias, -math.log((1 - prior) / prior))

    def forward(self, encoded: Encoded) -> ProposalSet:
        anchors, usable = self._anchors(encoded)
        memory = encoded.memory if self.teaches_encoder else encoded.memory.detach()
        tokens = self.norm(self.project(memory.masked_fill(~usable[..., None], 0)))
        logits = self.classes(tokens)
        anchors_logit = torch.logit(anchors).masked_fill(~usable[..., None], math.inf)
        boxes_logit = full_precision(self.boxes(tokens)) + anchors_logit
        with torch.no_grad():
            # Tokens of the padding never count as better than others, so padding changes nothing.
            rank = full_precision(logits[..., 0])
            if self.ignore_padding:
                rank = rank.masked_fill(~usable, -math.inf)
            count = min(self.num_proposals, rank.shape[1])
            boxes = boxes_logit.sigmoid()
            selected = self.select(rank, boxes, encoded.shapes, count)
        return ProposalSet(
            logits, boxes_logit, anchors.masked_fill(~usable[..., None], 1), tokens, selected
        )

    def _anchors(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """(B, S, 4) boxes of fixed size around the tokens, and which tokens have a usable one."""
        centres = full_precision(token_centres(encoded.shapes, encoded.valid_ratios))
        sizes = torch.cat(
            [
                centres.new_full((h * w,), self.anchor_size * self.anchor_growth**level)
                for level, (h, w) in enumerate(encoded.shapes)
            ]
        )
        sizes = sizes[None, :, None].expand(len(centres), -1, 2)
        anchors = torch.cat([centres, sizes], dim=-1)
        inside = ((anchors > 0.01) & (anchors < 0.99)).all(-1)
        return anchors, inside & ~encoded.mask
