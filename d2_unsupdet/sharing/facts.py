"""What a finished run says about itself, gathered for a model card and a manifest."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from omegaconf import DictConfig
from safetensors import safe_open

from d2_unsupdet.analysis.runs import Run
from d2_unsupdet.analysis.score_names import headline
from d2_unsupdet.checkpoint.checkpointer import Entry
from d2_unsupdet.checkpoint.files import sha256
from d2_unsupdet.checkpoint.hub import PREFIX
from d2_unsupdet.checkpoint.published import MODEL, is_published, read_manifest
from d2_unsupdet.data import catalog
from d2_unsupdet.engine.checks import is_class_agnostic
from d2_unsupdet.engine.config import is_box_pretext
from d2_unsupdet.engine.schedule import describe
from d2_unsupdet.errors import UserError

SHOWN_PACKAGES = ("d2_unsupdet", "torch", "torchvision", "detectron2")


@dataclass(frozen=True)
class Facts:
    """Everything a stranger wants to know of weights.

    Args:
        name: of the publication.
        kind: "pretrain" or "finetune".
        method: class of the model that was trained.
        detector: class of the detector in it; empty where there is none.
        data, test: names of data sets, with the share of the images that was trained on.
        schedule: length and rate, in words.
        init: the starting weights, in words.
        scores: "bbox/AP" -> value, those that exist.
        scored: which weights the scores are of, in words.
        classes: names in the order of the model's outputs; empty where it has none or nobody says.
        environment: package -> version.
        seed: of the run.
    """

    name: str
    kind: str
    method: str
    detector: str
    data: str
    test: str
    schedule: str
    init: str
    scores: Mapping[str, float]
    scored: str
    classes: list[str] = field(default_factory=list)
    environment: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0


def facts_of(run: Run, cfg: DictConfig, *, name: str, best: Entry | None = None) -> Facts:
    """Of a finished run; `best` is the manifest of its `model_best.pth` if that is published."""
    summary = run.summary
    kind = str(summary.get("kind") or run.kind)
    method = str(summary.get("method") or "?")
    versions = run.environment.get("packages")
    found = versions if isinstance(versions, dict) else {}
    return Facts(
        name=name,
        kind=kind,
        method=method,
        detector=_detector(cfg, kind, method),
        data=_names(summary.get("data")) + _subset(cfg),
        test=_names(summary.get("test")),
        schedule=_schedule(cfg, summary),
        init=_init(summary),
        scores=_scores(run, best),
        scored="after the last step"
        if best is None
        else f"after step {best.iteration + 1}, the best by {best.metric}",
        classes=_classes(cfg, run),
        environment={k: str(found[k]) for k in SHOWN_PACKAGES if found.get(k)},
        seed=int(summary.get("seed") or 0),
    )


def _detector(cfg: DictConfig, kind: str, method: str) -> str:
    if kind == "finetune":
        return method
    if is_box_pretext(cfg.model):
        return str(cfg.model.detector.get("_target_", "")).rpartition(".")[2]
    return ""


def _names(value: Any) -> str:
    """Data sets without the folders that they lie in: `coco:train.json@images`."""
    names = value if isinstance(value, list) else str(value or "").strip("[]").split(",")
    return ", ".join(_without_folders(str(name).strip(" '\"")) for name in names)


def _subset(cfg: DictConfig) -> str:
    """Fifty labelled images are not the data set."""
    subset = cfg.dataloader.train.dataset.get("subset")
    if subset is None:
        return ""
    return f" (subset {_without_folders(subset) if isinstance(subset, str) else subset})"


def _without_folders(name: str) -> str:
    parts = [piece.split(":") for piece in name.split("@")]
    return "@".join(":".join(p.rstrip("/").rpartition("/")[2] for p in part) for part in parts)


def _schedule(cfg: DictConfig, summary: Mapping[str, Any]) -> str:
    steps, images = int(summary["iterations"]), int(summary["images"])
    batch = cfg.dataloader.train.total_batch_size
    optimizer = str(cfg.optimizer.get("_target_", "")).rpartition(".")[2]
    shape = describe(instantiate(cfg.lr_multiplier), steps)
    return (
        f"{steps:,} steps of {batch} images, {steps * batch / max(images, 1):.1f} epochs of "
        f"{images:,} images; {optimizer}, rate {cfg.optimizer.get('lr')}, {shape}"
    )


def _init(summary: Mapping[str, Any]) -> str:
    """The file's name without its folder, which is nobody's business, and its hash."""
    named = summary.get("init_checkpoint")
    if not named:
        return "random"
    path, share = Path(str(named)), summary.get("init_coverage")
    used = f", {share:.0%} of its values used" if isinstance(share, int | float) else ""
    if str(named).startswith(PREFIX):
        return f"{named}{used}"
    digest, made = "", ""
    if path.is_file():
        digest, made = sha256(path), _made_by(path)
    elif is_published(path):
        told = read_manifest(path)
        digest, made = told["files"][MODEL]["sha256"], f" of {told['method']} on {told['data']}"
    said = f", SHA-256 {digest}" if digest else ""
    return f"{path.name}{made}{used}{said}"


def _made_by(path: Path) -> str:
    """What a pretext says in its export, as " of MoCoV2 on imagenet"."""
    if path.suffix != ".safetensors":
        return ""
    with safe_open(path, framework="pt") as file:
        told = file.metadata() or {}
    return (
        f" of {told['method']} on {_names(told['data'])}"
        if {"method", "data"} <= told.keys()
        else ""
    )


def _scores(run: Run, best: Entry | None) -> dict[str, float]:
    final = headline(run.scores)
    if best is None:
        return final
    at = {name: dict(run.curves.get(name, [])) for name in final}
    scores = {
        name: points[best.iteration] for name, points in at.items() if best.iteration in points
    }
    if best.metric and best.score is not None:
        scores[best.metric] = best.score
    return scores


def _classes(cfg: DictConfig, run: Run) -> list[str]:
    """As the data set says, or as the run wrote down where the data set is not on this machine."""
    test = cfg.dataloader.get("test")
    if test is None or is_box_pretext(cfg.model) or is_class_agnostic(cfg):
        return []
    try:
        return list(catalog.class_names(test.dataset.names))
    except UserError:
        told = run.summary.get("classes")
        return list(map(str, told)) if isinstance(told, list) else []
