"""What a DETR-style detector looks at: from tokens in the encoder, from queries in the decoder.

Dense attention gives a heat map, deformable attention the points it samples. All places are x, y
in 0..1 of the image without its padding, the coordinates of the detector's boxes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor, nn
from torchvision.ops import nms

from d2_unsupdet.detectors import DETR
from d2_unsupdet.detectors.boxes import to_xyxy
from d2_unsupdet.detectors.deformable_attention import DeformableAttention
from d2_unsupdet.detectors.encoder import EncoderLayer
from d2_unsupdet.detectors.structures import Encoded
from d2_unsupdet.errors import UserError


@dataclass(frozen=True)
class HeatMap:
    """Mean over the heads of a softmax row, (height, width) of the unpadded cells; sums to 1."""

    values: Tensor


@dataclass(frozen=True)
class SamplingPoints:
    """What all heads sample on all levels.

    Args:
        places: (n, 2), outside of 0..1 where the attention looks past the image.
        weights: (n,), their sum is 1.
        levels: (n,), 0 is the finest.
    """

    places: Tensor
    weights: Tensor
    levels: Tensor


Attention = HeatMap | SamplingPoints


@dataclass(frozen=True)
class Query:
    """A query's answer: box_xyxy (4,) in 0..1 of the image."""

    index: int
    label: int
    score: float
    box_xyxy: Tensor

    @property
    def center(self) -> tuple[float, float]:
        """x, y, inside of the image."""
        x, y = ((self.box_xyxy[:2] + self.box_xyxy[2:]) / 2).clamp(0, 1).tolist()
        return x, y


@dataclass(frozen=True)
class Token:
    """A cell of a level and its centre."""

    index: int
    place: tuple[float, float]


@dataclass(frozen=True)
class Trace:
    """One pass of a detector, with the attention of one layer of the encoder and of the decoder.

    >>> trace = trace_attention(model, batch)
    >>> best = trace.best(image=0, count=3)
    >>> trace.of_queries([query.index for query in best])     # [HeatMap(...), ...]
    >>> trace.of_tokens([trace.token((0.5, 0.5)).index])

    Args:
        encoded: of the batch.
        scores: (B, N, classes).
        boxes: (B, N, 4) cxcywh in 0..1.
        from_tokens: the encoder layer's attention of chosen tokens; None without such a layer.
        from_queries: the decoder layer's cross-attention.
        answers: what the detector answers in the same pass, an image each.
    """

    encoded: Encoded
    scores: Tensor
    boxes: Tensor
    from_tokens: Callable[[Tensor], Any] | None
    from_queries: Any
    answers: list[Instances] = field(default_factory=list)

    def best(self, *, image: int = 0, count: int = 3, threshold: float = 0.5) -> list[Query]:
        """The surest queries at or above the threshold; of those on one object only the first."""
        scores = self.scores[image].amax(-1)
        kept = nms(to_xyxy(self.boxes[image]), scores, 0.7)
        kept = kept[scores[kept] >= threshold][:count]
        return [self.query(index, image=image) for index in kept.tolist()]

    def query(self, index: int, *, image: int = 0) -> Query:
        """The answer of one query."""
        count = self.scores.shape[1]
        if not 0 <= index < count:
            raise UserError(f"There is no query {index}: the detector has 0 to {count - 1}.")
        score, label = self.scores[image, index].max(-1)
        return Query(index, int(label), float(score), to_xyxy(self.boxes[image, index]))

    def token(self, place: tuple[float, float], *, level: int = 0, image: int = 0) -> Token:
        """The token of a level whose cell holds the place."""
        shapes = self.encoded.shapes
        if not 0 <= level < len(shapes):
            raise UserError(f"There is no level {level}: the detector has 0 to {len(shapes) - 1}.")
        if not all(0 <= number <= 1 for number in place):
            raise UserError(f"The point {place} lies outside of the image: x and y are in 0..1.")
        columns, rows = self._cells(image, level)
        x, y = min(int(place[0] * columns), columns - 1), min(int(place[1] * rows), rows - 1)
        start = sum(height * width for height, width in shapes[:level])
        index = start + y * shapes[level][1] + x
        return Token(index, ((x + 0.5) / columns, (y + 0.5) / rows))

    def of_tokens(self, tokens: Sequence[int], *, image: int = 0) -> list[Attention]:
        """Where these tokens look in the encoder; nothing if it has no layers."""
        if self.from_tokens is None:
            return []
        chosen = torch.tensor(list(tokens), dtype=torch.int64, device=self.boxes.device)
        return self._attention(self.from_tokens(chosen), range(len(chosen)), image)

    def of_queries(self, queries: Sequence[int], *, image: int = 0) -> list[Attention]:
        """Where these queries look in the decoder's cross-attention."""
        return self._attention(self.from_queries, queries, image)

    def _attention(self, found: Any, rows: Sequence[int], image: int) -> list[Attention]:
        if isinstance(found, tuple):
            return [self._points(found[0][image, row], found[1][image, row], image) for row in rows]
        return [self._map(found[image, :, row].mean(0), image) for row in rows]

    def _map(self, row: Tensor, image: int) -> HeatMap:
        shapes = self.encoded.shapes
        if len(shapes) != 1:
            raise UserError(f"Heat maps need an encoder of one level, this one has {len(shapes)}.")
        columns, rows = self._cells(image, 0)
        return HeatMap(row.view(shapes[0])[:rows, :columns])

    def _points(self, locations: Tensor, weights: Tensor, image: int) -> SamplingPoints:
        """Of (heads, levels, points, 2) on the padded maps."""
        heads, levels, points = weights.shape
        ratios = self.encoded.valid_ratios[image].to(locations.dtype)
        number = torch.arange(levels, device=weights.device)[:, None].expand(heads, -1, points)
        return SamplingPoints(
            (locations / ratios[:, None]).flatten(0, 2), weights.flatten() / heads, number.flatten()
        )

    def _cells(self, image: int, level: int) -> tuple[int, int]:
        """Unpadded columns and rows."""
        height, width = self.encoded.shapes[level]
        x, y = self.encoded.valid_ratios[image, level].tolist()
        return round(x * width), round(y * height)


@torch.no_grad()
def trace_attention(model: nn.Module, batch: Sequence[dict[str, Any]], *, layer: int = -1) -> Trace:
    """Run a detector, in evaluation, on Detectron2's batch and keep what its layer attends to.

    Args:
        model: a detector of the DETR family.
        batch: as for the model.
        layer: of the encoder and of the decoder, from 0; negative numbers count from the last.
    """
    if not isinstance(model, DETR):
        raise UserError(
            f"{type(model).__name__} has no attention to draw: give a detector of the DETR family."
        )
    encoder = _layer(model.encoder.layers, layer, "encoder") if model.encoder.layers else None
    cross = _layer(model.decoder.layers, layer, "decoder").cross_attn
    seen: dict[str, Any] = {}
    handles = [cross.register_forward_pre_hook(lambda _, given: seen.update(decoder=given))]
    if encoder is not None:
        handles.append(
            encoder.register_forward_pre_hook(lambda _, given: seen.update(encoder=given))
        )
    try:
        images = model.preprocess(batch)
        encoded = model.encode(model.features(images))
        decoded = model.decode(encoded, model.queries(encoded))
    finally:
        for handle in handles:
            handle.remove()
    logits = decoded.logits[-1].float()
    scores = logits.softmax(-1)[..., :-1] if model.heads.background else logits.sigmoid()
    reads = cross.reads(*seen["decoder"])
    from_tokens = None if encoder is None else _from_tokens(encoder, *seen["encoder"])
    answers = [output["instances"] for output in model.answers(decoded, images, batch)]
    return Trace(encoded, scores, decoded.boxes[-1].float(), from_tokens, reads, answers)


def _layer(layers: nn.ModuleList, number: int, part: str) -> Any:
    if not -len(layers) <= number < len(layers):
        raise UserError(f"There is no layer {number}: the {part} has 0 to {len(layers) - 1}.")
    return layers[number]


def _from_tokens(
    layer: EncoderLayer, x: Tensor, encoded: Encoded, reference: Tensor | None
) -> Callable[[Tensor], Any]:
    """The layer's self-attention, computed for chosen rows only: all have S * S entries a head."""
    placed = (layer.norm_self(x) if layer.pre_norm else x) + encoded.position

    @torch.no_grad()
    def of(tokens: Tensor) -> Any:
        attention = layer.self_attn
        if isinstance(attention, DeformableAttention):
            assert reference is not None
            return attention.points_of(placed[:, tokens], reference[:, tokens], encoded.shapes)
        # dense attention; the module list knows "Module" only
        return attention.shares(placed[:, tokens], placed, padding=encoded.mask)  # type: ignore[operator]

    return of
