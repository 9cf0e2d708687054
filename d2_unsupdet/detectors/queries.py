"""Where queries come from: learned vectors, learned boxes, or the encoder's proposals.

Regions, (B, M, C) embeddings of image patches, condition them: N / M neighbouring queries share
one. Each source adds them where its detector looks for an object's identity.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from d2_unsupdet.detectors.boxes import full_precision
from d2_unsupdet.detectors.denoising import Denoising
from d2_unsupdet.detectors.layers import MLP, xavier
from d2_unsupdet.detectors.position import sine_embedding
from d2_unsupdet.detectors.structures import Encoded, Queries, Regions, Target, group_of
from d2_unsupdet.errors import UserError


def fitting_counts(queries: int, regions: int) -> str:
    """The nearest numbers of queries that so many regions can share, as text."""
    if regions == 0:
        return "any"
    below = queries // regions * regions
    return " or ".join(str(n) for n in (below, below + regions) if n)


def repeat_regions(regions: Regions, queries: int) -> tuple[Tensor, Tensor]:
    """One copy of its region (B, n, C) for each of the n used queries, and their groups (n,)."""
    count = len(regions)
    if count == 0 or (regions.each is None and queries % count):
        raise UserError(
            f"{queries} queries cannot be shared equally by {count} regions: choose num_queries="
            f"{fitting_counts(queries, count)}, or a number of regions that divides {queries} "
            "(exactly or boxes.count of the mapper)."
        )
    used = queries if regions.each is None else count * regions.each
    if used > queries:
        raise UserError(
            f"{count} regions of {regions.each} queries each need {used}, and the detector has "
            f"{queries}: take fewer regions."
        )
    group = group_of(used, count, regions.values.device)
    added = regions.values[:, group]
    if regions.keep is not None:
        added = added * regions.keep[..., None].to(added.dtype)
    return added, group


class LearnedQueries(nn.Module):
    """Learned queries: DETR, Conditional DETR and one-stage Deformable DETR.

    Args:
        num_queries: N.
        dim: channels.
        content: learn the content too; otherwise it starts at zero.
        reference: "none"; "point" for a linear layer from position to a point; "mlp" for two.
    """

    def __init__(
        self,
        *,
        num_queries: int,
        dim: int = 256,
        content: bool = False,
        reference: str = "none",
    ) -> None:
        super().__init__()
        self.num_queries, self.dim, self.content = num_queries, dim, content
        self.embed = nn.Embedding(num_queries, dim * (2 if content else 1))
        self.reference: nn.Module | None
        if reference == "point":
            self.reference = nn.Linear(dim, 2)
            xavier(self.reference)
            nn.init.zeros_(self.reference.bias)
        elif reference == "mlp":
            self.reference = MLP(dim, dim, 2)
            xavier(self.reference)
        elif reference == "none":
            self.reference = None
        else:
            raise UserError(f"LearnedQueries knows reference none, point and mlp, not {reference}.")

    def forward(
        self,
        encoded: Encoded,
        regions: Regions | None = None,
        targets: list[Target] | None = None,
    ) -> Queries:
        batch = len(encoded.memory)
        position = self.embed.weight[:, : self.dim].expand(batch, -1, -1)
        content = (
            self.embed.weight[:, self.dim :].expand(batch, -1, -1)
            if self.content
            else torch.zeros_like(position)
        )
        group = None
        if regions is not None:
            added, group = repeat_regions(regions, self.num_queries)
            position, content = position[:, : len(group)] + added, content[:, : len(group)]
        logit = None
        if self.reference is not None:
            # In half precision a point would be off by pixels.
            with torch.autocast(position.device.type, enabled=False):
                logit = self.reference(position)
        return Queries(content, position, logit, group)

    def count(self, encoded: Encoded, regions: int) -> int:
        """Queries that this many regions share."""
        return self.num_queries


class LearnedAnchors(nn.Module):
    """Learned boxes and contents: DAB-Deformable-DETR (arXiv:2201.12329), with `denoising` DN-DAB-.

    Args:
        num_queries: N.
        dim: channels.
        denoising: adds noised ground truth in training; the last content channel then says which.
    """

    def __init__(
        self, *, num_queries: int, dim: int = 256, denoising: Denoising | None = None
    ) -> None:
        super().__init__()
        self.num_queries, self.dim = num_queries, dim
        self.content = nn.Embedding(num_queries, dim - (denoising is not None))
        self.anchors = nn.Embedding(num_queries, 4)  # as logits
        self.denoising = denoising

    def forward(
        self,
        encoded: Encoded,
        regions: Regions | None = None,
        targets: list[Target] | None = None,
    ) -> Queries:
        batch = len(encoded.memory)
        content = self.content.weight.expand(batch, -1, -1)
        anchors = self.anchors.weight.expand(batch, -1, -1)
        group, noised = None, None
        if regions is not None:
            added, group = repeat_regions(regions, self.num_queries)
            content = content[:, : len(group)] + added[..., : content.shape[-1]]
            anchors = anchors[:, : len(group)]
        if self.denoising is not None:
            content = torch.nn.functional.pad(content, (0, 1))  # the indicator: not denoising
            if self.training and targets is not None:
                noised = self.denoising(targets)
            # Used or not, the table takes part: all ranks wait for its gradient.
            content = content + 0 * self.denoising.labels.weight[0, 0]
        return Queries(content, None, anchors, group, noised)

    def count(self, encoded: Encoded, regions: int) -> int:
        """Queries that this many regions share."""
        return self.num_queries


class ProposalQueries(nn.Module):
    """The encoder's proposals: two-stage Deformable DETR and DETA.

    Place and content both come from the box; DETA adds what the encoder saw there. With M regions
    there are k // M proposals for each, so a few of k are left out where M does not divide k.

    Args:
        dim: channels.
        token_content: add the proposal's token to the content.
    """

    def __init__(self, *, dim: int = 256, token_content: bool = False) -> None:
        super().__init__()
        self.dim = dim
        self.position_proj, self.position_norm = nn.Linear(2 * dim, 2 * dim), nn.LayerNorm(2 * dim)
        self.content_proj = nn.Linear(dim, dim) if token_content else None
        self.content_norm = nn.LayerNorm(dim) if token_content else None
        xavier(self)

    def forward(
        self,
        encoded: Encoded,
        regions: Regions | None = None,
        targets: list[Target] | None = None,
    ) -> Queries:
        found = encoded.proposals
        if found is None:
            raise UserError("ProposalQueries needs model.proposals=Proposals(...).")
        logit = found.take(found.boxes_logit).detach()
        tokens, group, added = found.take(found.tokens).detach(), None, None
        if regions is not None:  # the best ones, once for each region
            share, copies = self.count(encoded, len(regions)) // len(regions), (1, len(regions), 1)
            share = min(share, regions.each or share)
            logit, tokens = logit[:, :share].repeat(copies), tokens[:, :share].repeat(copies)
            added, group = repeat_regions(replace(regions, each=None), logit.shape[1])
        place = sine_embedding(full_precision(logit).sigmoid(), dim=self.dim // 2)
        embedded = self.position_norm(self.position_proj(place.to(tokens.dtype)))
        position, content = embedded.chunk(2, dim=-1)
        if self.content_proj is not None and self.content_norm is not None:
            content = content + self.content_norm(self.content_proj(tokens))
        if added is not None:
            content = content + added
        return Queries(content, position, logit, group)

    def count(self, encoded: Encoded, regions: int) -> int:
        """Queries that this many regions share."""
        assert encoded.proposals is not None
        proposals = encoded.proposals.selected.shape[1]
        if not 0 < regions <= proposals:
            raise UserError(
                f"{proposals} proposals cannot be shared by {regions} regions: choose from 1 to "
                f"{proposals}."
            )
        return proposals // regions * regions
