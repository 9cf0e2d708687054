"""The losses of all DETR-style detectors: class, L1 and generalised IoU, of every layer at once."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor, nn

from d2_unsupdet.detectors.assigning import Assigner, Stage, assign
from d2_unsupdet.detectors.boxes import full_precision, paired_giou, to_xyxy
from d2_unsupdet.detectors.classification import FocalLoss, SoftmaxLoss
from d2_unsupdet.detectors.federated import FederatedClasses
from d2_unsupdet.detectors.matching import HungarianAssigner
from d2_unsupdet.detectors.structures import (
    Decoded,
    DenoisingQueries,
    Encoded,
    Match,
    Matches,
    Target,
)
from d2_unsupdet.detectors.transfer import to_device
from d2_unsupdet.errors import UserError
from d2_unsupdet.metrics import log_metric

Losses = dict[str, Tensor]
Pairs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class Criterion(nn.Module):
    """Assign targets, then compare.

    Args:
        classification: class loss of the decoder.
        assigner: which query of the decoder learns which target.
        encoder_assigner: the same for the tokens of the encoder stage; None takes `assigner`, with
            a softmax decoder one-to-one matching by focal costs.
        weights: of "ce", "bbox" and "giou".
        auxiliary: train every decoder layer, not only the last.
        ignore_padding: tokens of the padding are no negatives of the encoder stage. In the
            originals they are, so that the loss of an image depends on its neighbours' size.
        federated: which classes have a say on an image; None: all. With a focal loss alone.
        denoising_count: denoising losses are divided by the targets of this rank ("local", as the
            original) or by their mean over the ranks, as all other losses ("ranks").
    """

    def __init__(
        self,
        *,
        classification: FocalLoss | SoftmaxLoss,
        assigner: Assigner,
        encoder_assigner: Assigner | None = None,
        weights: Mapping[str, float],
        auxiliary: bool = True,
        ignore_padding: bool = True,
        federated: FederatedClasses | None = None,
        denoising_count: Literal["local", "ranks"] = "local",
    ) -> None:
        super().__init__()
        self.classification = classification
        focal = isinstance(classification, FocalLoss)
        # Objectness is one sigmoid, whatever the decoder's classes are.
        self.objectness = classification if focal else FocalLoss()
        self.assigner = assigner
        if encoder_assigner is None:
            encoder_assigner = assigner if focal else HungarianAssigner()
        self.encoder_assigner = encoder_assigner
        if federated is not None and not focal:
            raise UserError(
                "model.criterion.federated leaves classes out one by one, which a softmax cannot; "
                "set it to null, or take FocalLoss."
            )
        self.federated = federated
        self.weights = dict(weights)
        self.auxiliary, self.ignore_padding = auxiliary, ignore_padding
        self.denoising_count = denoising_count
        self.alone = False  # for a while: losses of one process, while the others do something else

    def forward(
        self,
        decoded: Decoded,
        encoded: Encoded,
        targets: Sequence[Target],
        *,
        denoising: DenoisingQueries | None = None,
        allowed: Tensor | None = None,
    ) -> tuple[Losses, Matches]:
        """Weighted losses by name, and the assignment they came from."""
        count = average_count(targets, decoded.boxes, alone=self.alone)
        silent = self._silent(decoded, targets)
        stages = [(self.assigner, self._decoder_stage(decoded, targets, allowed))]
        if encoded.proposals is not None:
            stages.append((self.encoder_assigner, self._encoder_stage(encoded, targets)))
        matched = assign(stages)
        pairs = _pairs(stages[0][1], matched[0])
        ignored = None if silent is None else silent[:, None]
        losses = self._stage(stages[0][1], pairs, self.classification, count, ignored)
        result = self._named(losses, "")
        self._log(stages[0][1], pairs, sum(map(len, matched[0][-1].queries)))
        if encoded.proposals is not None:
            pairs = _pairs(stages[1][1], matched[1])
            padding = encoded.mask[..., None] if self.ignore_padding else None
            losses = self._stage(stages[1][1], pairs, self.objectness, count, padding)
            result |= self._named(losses, "_enc")
        if denoising is not None and decoded.denoising is not None:
            if self.denoising_count == "local":
                count = to_device([max(1.0, sum(map(len, targets)))], count.device)
            result |= self._named(
                self._denoising(decoded.denoising, denoising, count, silent), "_dn"
            )
        layers = matched[0] if self.auxiliary else matched[0] * len(decoded.boxes)
        return result, Matches(layers, matched[1][0] if len(matched) > 1 else None)

    @property
    def _layers(self) -> slice:
        return slice(None) if self.auxiliary else slice(-1, None)

    def _silent(self, decoded: Decoded, targets: Sequence[Target]) -> Tensor | None:
        """(B, K) classes that are no negatives; a loss that is only looked at counts all."""
        if self.federated is None or self.alone:
            return None
        return ~self.federated([t.labels for t in targets], decoded.logits.shape[-1])

    def _decoder_stage(
        self, decoded: Decoded, targets: Sequence[Target], allowed: Tensor | None
    ) -> Stage:
        most, queries = max(map(len, targets), default=0), decoded.boxes.shape[2]
        if allowed is not None and (allowed.shape[0] != queries or allowed.shape[1] < most):
            raise UserError(
                f"allowed is {tuple(allowed.shape)}: it needs a row for each of {queries} queries "
                f"and a column for each target, of which an image has {most}."
            )
        layers, reference = self._layers, decoded.reference
        return Stage(
            decoded.logits[layers],
            decoded.boxes[layers],
            None if reference is None else reference.detach(),
            targets,
            allowed=allowed,
        )

    def _encoder_stage(self, encoded: Encoded, targets: Sequence[Target]) -> Stage:
        """Every target is the one class "object"."""
        found = encoded.proposals
        assert found is not None
        objects = [Target(torch.zeros_like(t.labels), t.boxes, t.name) for t in targets]
        blocked = encoded.mask if self.ignore_padding else None
        return Stage(found.logits[None], found.boxes[None], found.anchors, objects, blocked)

    def _stage(
        self,
        stage: Stage,
        pairs: Pairs,
        classification: nn.Module,
        count: Tensor,
        ignored: Tensor | None,
    ) -> Losses:
        """Each loss as a vector (D,)."""
        layer, image, query, labels, goal = pairs
        return {
            "ce": classification(stage.logits, (layer, image, query), labels, count, ignored),
            **_box_losses(stage.boxes[layer, image, query], goal, layer, len(stage.boxes), count),
        }

    def _denoising(
        self, decoded: Decoded, noised: DenoisingQueries, count: Tensor, silent: Tensor | None
    ) -> Losses:
        """No matching: each slot knows its target. Slots without one are not counted."""
        logits = decoded.logits[self._layers, noised.image, noised.slot]  # (D, t, K)
        boxes = decoded.boxes[self._layers, noised.image, noised.slot]
        layers, slots, device = len(boxes), len(noised.labels), boxes.device
        layer = torch.arange(layers, device=device).repeat_interleave(slots)
        slot = torch.arange(slots, device=device).repeat(layers)
        index = (layer, torch.zeros_like(layer), slot)
        count = count * noised.groups
        ignored = None if silent is None else silent[noised.image]
        return {
            "ce": self.classification(
                logits[:, None], index, noised.labels.repeat(layers), count, ignored
            ),
            **_box_losses(
                boxes.flatten(0, 1), noised.boxes.repeat(layers, 1), layer, layers, count
            ),
        }

    def _named(self, losses: Losses, suffix: str) -> Losses:
        """Weighted, under the originals' names: the last layer's has no number."""
        result = {}
        for name, values in losses.items():
            for layer, value in enumerate(values.unbind()):
                number = "" if layer == len(values) - 1 else f"_{layer}"
                result[f"loss_{name}{suffix}{number}"] = value * self.weights[name]
        return result

    @torch.no_grad()
    def _log(self, stage: Stage, pairs: Pairs, last: int) -> None:
        """Per cent of matched queries of the last layer whose best class is wrong.

        The `last` pairs are that layer's. Logged without objects too: ranks reduce their metrics
        together, so all need the same names.
        """
        image, query, labels = (part[len(part) - last :] for part in pairs[1:4])
        logits = stage.logits[-1]
        classes = logits.shape[-1] - self.classification.background
        best = logits[image, query][:, :classes].argmax(-1)
        log_metric("class_error", 100 * (best != labels).float().sum() / max(1, last))
        if self.classification.background:
            found = (logits.argmax(-1) != classes).float().sum(1)
            objects = to_device([len(t) for t in stage.targets], found.device)
            log_metric("cardinality_error", (found - objects).abs())


def _box_losses(boxes: Tensor, goal: Tensor, layer: Tensor, layers: int, count: Tensor) -> Losses:
    boxes = full_precision(boxes)
    goal = goal.to(boxes.dtype)
    apart = (boxes - goal).abs().sum(1)
    outside = 1 - paired_giou(to_xyxy(boxes), to_xyxy(goal))
    zero = boxes.new_zeros(layers)
    return {
        "bbox": zero.index_add(0, layer, apart) / count,
        "giou": zero.index_add(0, layer, outside) / count,
    }


def _pairs(stage: Stage, matched: Sequence[Match]) -> Pairs:
    """Layer, image, query, label and box of every pair, in the order of the layers."""
    layer, image, query, target = flat_index(matched, stage.targets, stage.boxes.device)
    labels = torch.cat([t.labels for t in stage.targets])[target]
    return layer, image, query, labels, torch.cat([t.boxes for t in stage.targets])[target]


def flat_index(
    matched: Sequence[Match], targets: Sequence[Target], device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All pairs of all layers: layer, image, query, and target as row of all images' targets."""
    starts = [0]
    for target in targets:
        starts.append(starts[-1] + len(target))
    columns = [
        torch.stack(
            [
                torch.full_like(query, layer),
                torch.full_like(query, image),
                query,
                chosen + starts[image],
            ]
        )
        for layer, match in enumerate(matched)
        for image, (query, chosen) in enumerate(zip(match.queries, match.targets, strict=True))
    ]
    layer, image, query, chosen = torch.cat(columns, dim=1).to(device, non_blocking=True)
    return layer, image, query, chosen


def average_count(targets: Sequence[Target], like: Tensor, *, alone: bool = False) -> Tensor:
    """Objects a rank, at least 1: what every loss is divided by; `alone`, those of this rank."""
    count = to_device([float(sum(map(len, targets)))], like.device)
    if comm.get_world_size() > 1 and not alone:
        dist.all_reduce(count)
        count = count / comm.get_world_size()
    return count.clamp(min=1)
