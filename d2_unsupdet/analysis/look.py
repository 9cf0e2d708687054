"""What a trained model says about one image file: boxes, what each of them looks at, features.

Any run will do: a detector answers with its classes, a pretrained one with objects, and a model
without boxes gives the features of its backbone alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from detectron2.structures import Instances
from omegaconf import DictConfig
from torch import Tensor

from d2_unsupdet.analysis.attention import Attention, Trace, trace_attention
from d2_unsupdet.analysis.detectors import Shown, open_detector
from d2_unsupdet.checkpoint.backbone import FrozenResNet, load_resnet, resnet_of
from d2_unsupdet.checkpoint.hub import PREFIX, parse_name
from d2_unsupdet.checkpoint.published import is_export, is_published, located
from d2_unsupdet.detectors import DETR
from d2_unsupdet.detectors.boxes import to_xyxy
from d2_unsupdet.engine.config import is_box_pretext, load_config, scored_set, target_of
from d2_unsupdet.errors import UserError

CONFIGS = (".py", ".yaml", ".yml")


@dataclass(frozen=True)
class Found:
    """A box, xyxy in 0..1 of the image; `query` is the one that answered, of the DETR family."""

    box_xyxy: tuple[float, float, float, float]
    label: int
    score: float
    query: int | None = None


@dataclass(frozen=True)
class Look:
    """What was found in one image.

    Args:
        found: surest first.
        attention: what the query of each box looks at; empty where nothing attends.
        shapes: rows and columns of the levels that attention reads.
    """

    found: list[Found]
    attention: list[Attention] = field(default_factory=list)
    shapes: list[tuple[int, int]] = field(default_factory=list)


class Looker:
    """A detector and its backbone's features, or these features alone.

    >>> looker = open_looker("output/run")
    >>> look = looker.look("street.jpg")
    >>> looker.names[look.found[0].label], look.attention[0]

    Args:
        label: its name.
        shown: the detector; None where there is none.
        net: the features that images are compared by.
    """

    def __init__(self, *, label: str, shown: Shown | None, net: FrozenResNet) -> None:
        self.label, self.shown, self.net = label, shown, net

    @property
    def names(self) -> list[str]:
        """Of the classes."""
        return self.shown.names if self.shown else []

    @property
    def only_pretrained(self) -> bool:
        """Its scores rank boxes and mean no more: it knows objects from no label."""
        return self.shown is not None and self.shown.class_agnostic

    @property
    def attends(self) -> bool:
        """Whether boxes come with attention."""
        return self.shown is not None and isinstance(self.shown.detector, DETR)

    def look(self, path: str | Path, *, most: int = 100) -> Look:
        """The surest boxes of an image file, at most `most`."""
        if self.shown is None:
            raise UserError(f"{self.label} predicts no boxes; it gives features alone.")
        sample = self.shown.mapper({"file_name": str(path), "image_id": 0})
        if not self.attends:
            return Look([_plain(one) for one in _rows(self.shown.find(sample), most)])
        trace = trace_attention(self.shown.detector, [sample])
        found = _traced(_rows(trace.answers[0].to("cpu"), most), trace)
        attention = trace.of_queries([one.query for one in found if one.query is not None])
        return Look(found, attention, [(int(h), int(w)) for h, w in trace.encoded.shapes])


def open_looker(
    source: str | Path,
    *,
    weights: str | None = None,
    overrides: Sequence[str] = (),
    allow_unsafe: bool = False,
) -> Looker:
    """What a run, or a file of weights, has to say.

    Args:
        source: the folder of a run or a published one, `hub:owner/name[@revision]`, a file of
            weights in a folder (its config is used), any other file of weights (its backbone is
            used), or a config.
        weights: those of a config or instead of a run's newest.
        overrides: of the config.
        allow_unsafe: let a file run code.
    """
    name = None
    if str(source).startswith(PREFIX):
        name, source = parse_name(str(source))[0].rpartition("/")[2], _fetched(str(source))
    path = Path(source)
    if path.is_file() and path.suffix not in CONFIGS:
        if not (path.parent / "config.yaml").is_file() or _is_export(path):
            net = load_resnet(path, allow_unsafe=allow_unsafe)
            return Looker(label=name or path.stem, shown=None, net=net)
        source, weights = path.parent, weights or str(path)
    elif not path.exists():
        raise UserError(f"There is no run or file '{source}'.")
    folder = Path(source) if Path(source).is_dir() else None
    label = name or Path(source).resolve().stem
    config = str(folder / "config.yaml" if folder else source)
    cfg = load_config(config, overrides, allow_unsafe=allow_unsafe)
    if not _predicts(cfg) or (folder is not None and weights is None and is_export(folder)):
        if folder is None:
            raise UserError(f"{source} configures no detector: give the run's folder instead.")
        net = load_resnet(weights or folder, allow_unsafe=allow_unsafe)
        return Looker(label=label, shown=None, net=net)
    shown = open_detector(
        source, label=label, weights=weights, overrides=overrides, allow_unsafe=allow_unsafe
    )
    device = next(shown.model.parameters()).device
    return Looker(label=label, shown=shown, net=resnet_of(shown.model, str(source)).to(device))


def _fetched(source: str) -> Path:
    """The published folder of a repository, or the file of weights that somebody else put there."""
    file = located(source)
    return file.parent if is_published(file.parent) else file


def _is_export(path: Path) -> bool:
    """What a pretext exports is the downstream model, not the one of the config beside it."""
    return path.stem == "export" or is_export(path.parent)


def _predicts(cfg: DictConfig) -> bool:
    """Whether the config is of something that answers with boxes, pretrained or finetuned."""
    if is_box_pretext(cfg.model):
        return True
    kind = target_of(cfg.model)
    segments = "sem_seg_head" in cfg.model and "roi_heads" not in cfg.model
    return scored_set(cfg) is not None and not hasattr(kind, "export") and not segments


def _rows(instances: Instances, most: int) -> list[tuple[Tensor, int, float]]:
    """(box in 0..1, label, score) of the surest."""
    height, width = instances.image_size
    kept = instances[instances.scores.argsort(descending=True, stable=True)[:most]]
    boxes = kept.pred_boxes.tensor / torch.tensor([width, height] * 2)
    return list(zip(boxes, kept.pred_classes.tolist(), kept.scores.tolist(), strict=True))


def _plain(row: tuple[Tensor, int, float], query: int | None = None) -> Found:
    box, label, score = row
    left, top, right, bottom = box.tolist()
    return Found((left, top, right, bottom), label, score, query)


def _traced(rows: Sequence[tuple[Tensor, int, float]], trace: Trace) -> list[Found]:
    """With their queries, which detections do not carry: that of the score whose box is nearest."""
    scores, boxes = trace.scores[0].cpu(), to_xyxy(trace.boxes[0]).clamp(0, 1).cpu()
    found = []
    for box, label, score in rows:
        distance = (boxes - box).abs().sum(-1) + 1e3 * (scores[:, label] - score).abs()
        found.append(_plain((box, label, score), int(distance.argmin())))
    return found
