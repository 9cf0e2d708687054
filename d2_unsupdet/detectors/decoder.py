"""One transformer decoder for six detectors: its layers, its positions and whether it refines."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from d2_unsupdet.detectors.attention import (
    ConditionalCrossAttention,
    ConditionalSelfAttention,
    DeformableCrossAttention,
    DenseCrossAttention,
    DenseSelfAttention,
    Step,
)
from d2_unsupdet.detectors.boxes import full_precision
from d2_unsupdet.detectors.deformable_attention import DeformableAttention
from d2_unsupdet.detectors.heads import Heads
from d2_unsupdet.detectors.layers import MLP, FeedForward, xavier
from d2_unsupdet.detectors.position import sine_embedding
from d2_unsupdet.detectors.structures import Decoded, Encoded, Queries


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and a feed-forward block, each with residual and norm."""

    def __init__(
        self,
        *,
        self_attn: nn.Module,
        cross_attn: nn.Module,
        dim: int,
        ffn_dim: int,
        dropout: float,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        self.self_attn, self.cross_attn = self_attn, cross_attn
        self.ffn = FeedForward(dim=dim, width=ffn_dim, dropout=dropout)
        self.norm_self, self.norm_cross = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.norm_ffn = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.pre_norm = pre_norm

    def forward(self, x: Tensor, step: Step) -> Tensor:
        if self.pre_norm:
            x = x + self.dropout(self.self_attn(self.norm_self(x), step))
            x = x + self.dropout(self.cross_attn(self.norm_cross(x), step))
            return x + self.dropout(self.ffn(self.norm_ffn(x)))
        x = self.norm_self(x + self.dropout(self.self_attn(x, step)))
        x = self.norm_cross(x + self.dropout(self.cross_attn(x, step)))
        return self.norm_ffn(x + self.dropout(self.ffn(x)))


class ConditionalPosition(nn.Module):
    """The place of the reference, scaled by the content: Conditional DETR's spatial query."""

    def __init__(self, *, dim: int = 256) -> None:
        super().__init__()
        self.dim = dim
        self.scale = MLP(dim, dim, dim)

    def forward(
        self, layer: int, content: Tensor, position: Tensor, reference: Tensor, encoded: Encoded
    ) -> tuple[Tensor, Tensor | None]:
        sine = sine_embedding(reference.flip(-1), dim=self.dim // 2)  # y, x
        return position, sine if layer == 0 else sine * self.scale(content)


class AnchorPosition(nn.Module):
    """The place and the size of the reference box: the position of DAB's queries.

    Args:
        dim: channels.
        padded: measure the box in the padded batch, as the original; otherwise in the image, so
            that padding changes nothing.
    """

    def __init__(self, *, dim: int = 256, padded: bool = True) -> None:
        super().__init__()
        self.dim, self.padded = dim, padded
        self.scale = MLP(dim, dim, dim)
        self.project = MLP(2 * dim, dim, dim)

    def forward(
        self,
        layer: int,
        content: Tensor,
        position: Tensor | None,
        reference: Tensor,
        encoded: Encoded,
    ) -> tuple[Tensor, Tensor | None]:
        if self.padded:
            ratio = encoded.valid_ratios[:, 0]  # of the finest level
            reference = reference * torch.cat([ratio, ratio], dim=-1)[:, None]
        x, y, w, h = reference.unbind(-1)
        box = torch.stack([y, x, w, h], dim=-1)
        place = self.project(sine_embedding(box, dim=self.dim // 2))
        return (place if layer == 0 else place * self.scale(content)), None


class Decoder(nn.Module):
    """Layers from queries to boxes.

    Args:
        layers: of the decoder.
        dim: channels.
        position: how the place of a query enters a layer; None takes that of the queries.
        norm: one more norm, shared by the outputs of all layers.
        refine: each layer starts from the boxes of the one before, without gradient.
    """

    def __init__(
        self,
        *,
        layers: Sequence[DecoderLayer],
        dim: int,
        position: ConditionalPosition | AnchorPosition | None = None,
        norm: bool = False,
        refine: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.position = position
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.refine = refine
        self.reset_parameters()

    def reset_parameters(self) -> None:
        xavier(self)
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.reset_parameters()

    def forward(self, encoded: Encoded, queries: Queries, heads: Heads) -> Decoded:
        content, position, start = _with_denoising(queries)
        reference = None if start is None else full_precision(start).sigmoid()
        first, mask = reference, queries.attention_mask()
        hidden, logits, boxes = [], [], []
        for number, layer in enumerate(self.layers):
            place, sine = position, None
            if self.position is not None:
                place, sine = self.position(number, content, position, reference, encoded)
            assert place is not None
            content = layer(content, Step(encoded, place, sine, reference, mask))
            hidden.append(self.norm(content))
            logits.append(heads.classify(number, hidden[-1]))
            boxes.append(heads.locate(number, hidden[-1], reference))
            if self.refine:
                reference = boxes[-1].detach()
        decoded = Decoded(torch.stack(hidden), torch.stack(logits), torch.stack(boxes), first)
        noised = queries.denoising
        return decoded if noised is None else decoded.split(len(noised.group))


class DenseDecoder(Decoder):
    """DETR's decoder, pre-norm or post-norm.

    Args:
        dim: channels.
        heads: attention heads.
        num_layers: of the decoder.
        ffn_dim: width of the feed-forward blocks.
        dropout: of attention weights, residual branches and feed-forward blocks.
        pre_norm: norms before the blocks instead of behind them.
    """

    def __init__(
        self,
        *,
        dim: int = 256,
        heads: int = 8,
        num_layers: int = 6,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        pre_norm: bool = False,
    ) -> None:
        layers = [
            DecoderLayer(
                self_attn=DenseSelfAttention(dim=dim, heads=heads, dropout=dropout),
                cross_attn=DenseCrossAttention(dim=dim, heads=heads, dropout=dropout),
                dim=dim,
                ffn_dim=ffn_dim,
                dropout=dropout,
                pre_norm=pre_norm,
            )
            for _ in range(num_layers)
        ]
        super().__init__(layers=layers, dim=dim, norm=True)


class ConditionalDecoder(Decoder):
    """Conditional DETR's decoder; arguments as for `DenseDecoder`."""

    def __init__(
        self,
        *,
        dim: int = 256,
        heads: int = 8,
        num_layers: int = 6,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        layers = [
            DecoderLayer(
                self_attn=ConditionalSelfAttention(dim=dim, heads=heads, dropout=dropout),
                cross_attn=ConditionalCrossAttention(
                    dim=dim, heads=heads, dropout=dropout, first=number == 0
                ),
                dim=dim,
                ffn_dim=ffn_dim,
                dropout=dropout,
            )
            for number in range(num_layers)
        ]
        super().__init__(layers=layers, dim=dim, position=ConditionalPosition(dim=dim), norm=True)


class DeformableDecoder(Decoder):
    """The decoder of Deformable DETR, DETA, and with `anchor_position` of DAB- and DN-DAB-.

    Args:
        dim: channels.
        heads: attention heads.
        num_layers: of the decoder.
        ffn_dim: width of the feed-forward blocks.
        dropout: of self-attention weights, residual branches and feed-forward blocks.
        levels: feature levels.
        points: that a head reads on each level.
        refine: each layer corrects the boxes of the one before.
        anchor_position: queries have the place of their reference box instead of a learned one.
        padded_position: as `padded` of `AnchorPosition`.
    """

    def __init__(
        self,
        *,
        dim: int = 256,
        heads: int = 8,
        num_layers: int = 6,
        ffn_dim: int = 1024,
        dropout: float = 0.1,
        levels: int = 4,
        points: int = 4,
        refine: bool = False,
        anchor_position: bool = False,
        padded_position: bool = True,
    ) -> None:
        layers = [
            DecoderLayer(
                self_attn=DenseSelfAttention(dim=dim, heads=heads, dropout=dropout),
                cross_attn=DeformableCrossAttention(
                    dim=dim, heads=heads, levels=levels, points=points
                ),
                dim=dim,
                ffn_dim=ffn_dim,
                dropout=dropout,
            )
            for _ in range(num_layers)
        ]
        position = AnchorPosition(dim=dim, padded=padded_position) if anchor_position else None
        super().__init__(layers=layers, dim=dim, position=position, refine=refine)


def _with_denoising(queries: Queries) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Content, position and reference logits, the denoising slots before the others."""
    noised = queries.denoising
    if noised is None:
        return queries.content, queries.position, queries.reference_logit
    assert queries.position is None and queries.reference_logit is not None
    content = torch.cat([noised.content, queries.content], dim=1)
    return content, None, torch.cat([noised.reference_logit, queries.reference_logit], dim=1)
