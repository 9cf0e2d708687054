"""Attention between tokens and queries: dense (DETR) and conditional (arXiv:2108.06152).

The deformable kind has a file of its own. All of them are called the same way by the decoder.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2_unsupdet.detectors.deformable_attention import DeformableAttention
from d2_unsupdet.detectors.structures import Encoded


@dataclass(frozen=True)
class Step:
    """What a decoder layer sees besides its content.

    Args:
        encoded: the encoder's output.
        position: (B, N, C) added to queries.
        sine: (B, N, C) conditional spatial query.
        reference: (B, N, 2 or 4) in 0..1.
        mask: (N, N), True where a query must not see another.
    """

    encoded: Encoded
    position: Tensor
    sine: Tensor | None
    reference: Tensor | None
    mask: Tensor | None


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    heads: int,
    mask: Tensor | None = None,
    padding: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax attention of projected (B, N, C), (B, S, C), (B, S, C); masks are True for "not".

    Args:
        mask: (N, S).
        padding: (B, S) of the keys.
    """
    seen = None
    if mask is not None:
        seen = ~mask
    if padding is not None:
        keys = ~padding[:, None, None]
        seen = keys if seen is None else seen & keys
    split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value)]
    mixed = F.scaled_dot_product_attention(
        split[0], split[1], split[2], attn_mask=seen, dropout_p=dropout
    )
    return mixed.transpose(1, 2).flatten(2)


def shares(query: Tensor, key: Tensor, *, heads: int, padding: Tensor | None = None) -> Tensor:
    """The (B, heads, N, S) softmax that `attend` mixes values by, for those who look at it."""
    split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key)]
    scores = split[0] @ split[1].transpose(2, 3) / split[0].shape[-1] ** 0.5
    if padding is not None:
        scores = scores.masked_fill(padding[:, None, None], float("-inf"))
    return scores.softmax(-1)


class MultiHeadAttention(nn.Module):
    """Dense attention under the parameter names of `torch.nn.MultiheadAttention`.

    Args:
        dim: channels.
        heads: attention heads.
        dropout: of the attention weights.
    """

    def __init__(self, *, dim: int = 256, heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.dim, self.heads, self.dropout = dim, heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def mix(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        mask: Tensor | None = None,
        padding: Tensor | None = None,
    ) -> Tensor:
        """Project, attend, project."""
        if query is key:  # self-attention: one product for both
            q, k = self._project(query, slice(None, 2 * self.dim)).chunk(2, dim=-1)
        else:
            q = self._project(query, slice(None, self.dim))
            k = self._project(key, slice(self.dim, 2 * self.dim))
        v = self._project(value, slice(2 * self.dim, None))
        dropout = self.dropout if self.training else 0.0
        mixed = attend(q, k, v, heads=self.heads, mask=mask, padding=padding, dropout=dropout)
        return self.out_proj(mixed)

    def shares(self, query: Tensor, key: Tensor, *, padding: Tensor | None = None) -> Tensor:
        """How much each query takes of each key, (B, heads, N, S)."""
        q = self._project(query, slice(None, self.dim))
        k = self._project(key, slice(self.dim, 2 * self.dim))
        return shares(q, k, heads=self.heads, padding=padding)

    def _project(self, x: Tensor, rows: slice) -> Tensor:
        return F.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])


class DenseSelfAttention(MultiHeadAttention):
    """Queries see each other."""

    def forward(self, content: Tensor, step: Step) -> Tensor:
        placed = content + step.position
        return self.mix(placed, placed, content, mask=step.mask)


class DenseCrossAttention(MultiHeadAttention):
    """Queries see all tokens."""

    def forward(self, content: Tensor, step: Step) -> Tensor:
        encoded = step.encoded
        keys = encoded.memory + encoded.position
        return self.mix(content + step.position, keys, encoded.memory, padding=encoded.mask)

    def reads(self, content: Tensor, step: Step) -> Tensor:
        """How much each query takes of each token, (B, heads, N, S)."""
        encoded = step.encoded
        keys = encoded.memory + encoded.position
        return self.shares(content + step.position, keys, padding=encoded.mask)


class DeformableCrossAttention(DeformableAttention):
    """Queries read a few points around their reference."""

    # Another call on purpose: all cross-attentions are called alike.
    def forward(self, content: Tensor, step: Step) -> Tensor:  # type: ignore[override]
        encoded, placed = step.encoded, self._placed(step)
        return super().forward(
            content + step.position, placed, encoded.memory, encoded.shapes, encoded.mask
        )

    def reads(self, content: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """`points_of` each query."""
        return self.points_of(content + step.position, self._placed(step), step.encoded.shapes)

    @staticmethod
    def _placed(step: Step) -> Tensor:
        """The references on each level of the padded batch, (B, N, L, 2 or 4)."""
        reference, ratios = step.reference, step.encoded.valid_ratios
        assert reference is not None
        if reference.shape[-1] == 4:
            ratios = torch.cat([ratios, ratios], dim=-1)
        return reference[:, :, None] * ratios[:, None]


class ConditionalSelfAttention(nn.Module):
    """Self-attention with projections of their own for content and position.

    Args:
        dim: channels.
        heads: attention heads.
        dropout: of the attention weights.
    """

    def __init__(self, *, dim: int = 256, heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query_content = nn.Linear(dim, dim)
        self.query_position = nn.Linear(dim, dim)
        self.key_content = nn.Linear(dim, dim)
        self.key_position = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, content: Tensor, step: Step) -> Tensor:
        mixed = attend(
            self.query_content(content) + self.query_position(step.position),
            self.key_content(content) + self.key_position(step.position),
            self.value(content),
            heads=self.heads,
            mask=step.mask,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.out_proj(mixed)


class ConditionalCrossAttention(nn.Module):
    """Each head compares content with content and place with place, side by side.

    Args:
        dim: channels of content, and again of place.
        heads: attention heads.
        dropout: of the attention weights.
        first: the first layer, which has no content yet, adds position to content.
    """

    def __init__(
        self, *, dim: int = 256, heads: int = 8, dropout: float = 0.0, first: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query_content = nn.Linear(dim, dim)
        self.query_position = nn.Linear(dim, dim) if first else None
        self.query_sine = nn.Linear(dim, dim)
        self.key_content = nn.Linear(dim, dim)
        self.key_position = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, content: Tensor, step: Step) -> Tensor:
        query, key = self._query_and_key(content, step)
        mixed = attend(
            query,
            key,
            self.value(step.encoded.memory),
            heads=self.heads,
            padding=step.encoded.mask,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.out_proj(mixed)

    def reads(self, content: Tensor, step: Step) -> Tensor:
        """How much each query takes of each token, (B, heads, N, S)."""
        query, key = self._query_and_key(content, step)
        return shares(query, key, heads=self.heads, padding=step.encoded.mask)

    def _query_and_key(self, content: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        encoded = step.encoded
        query, key = self.query_content(content), self.key_content(encoded.memory)
        key_place = self.key_position(encoded.position)
        if self.query_position is not None:
            query, key = query + self.query_position(step.position), key + key_place
        sine = self.query_sine(step.sine)
        return self._side_by_side(query, sine), self._side_by_side(key, key_place)

    def _side_by_side(self, content: Tensor, place: Tensor) -> Tensor:
        """(B, N, C) twice to (B, N, 2C), where every head holds its share of both."""
        parts = [x.unflatten(-1, (self.heads, -1)) for x in (content, place)]
        return torch.cat(parts, dim=-1).flatten(2)
