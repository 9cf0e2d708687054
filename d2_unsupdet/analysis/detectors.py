"""Detectors to be drawn: from a run's folder, or a config and weights; pretrained ones too.

A box pretext answers as its detector does, with one class; what is drawn of data with classes is
then called "object".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import Instances
from omegaconf import DictConfig
from torch import nn

from d2_unsupdet.analysis.runs import read_run
from d2_unsupdet.checkpoint.checkpointer import newest_weights
from d2_unsupdet.checkpoint.load import load_weights
from d2_unsupdet.checkpoint.published import is_published, read_manifest
from d2_unsupdet.data import catalog
from d2_unsupdet.engine.build import build_model
from d2_unsupdet.engine.checks import is_class_agnostic, prepare
from d2_unsupdet.engine.config import is_box_pretext, load_config, scored_set
from d2_unsupdet.engine.whole_images import whole_image_mapper
from d2_unsupdet.errors import UserError

RANDOM = "random"


@dataclass(frozen=True)
class Shown:
    """A detector and how its answers are to be read.

    Args:
        label: in pictures.
        model: answers Detectron2's batch.
        mapper: makes that batch of records.
        names: of its classes.
        cfg: it was built of.
    """

    label: str
    model: nn.Module
    mapper: Any
    names: list[str]
    cfg: DictConfig

    @property
    def detector(self) -> nn.Module:
        """The model, or what a pretext pretrains."""
        return self.model.detector if is_box_pretext(self.cfg.model) else self.model  # type: ignore[return-value]  # nn.Module

    @property
    def class_agnostic(self) -> bool:
        """It knows objects and no classes."""
        return is_box_pretext(self.cfg.model) or is_class_agnostic(self.cfg)

    @torch.no_grad()
    def find(self, sample: dict) -> Instances:
        """Its answer for one sample, on the CPU."""
        output = self.model([sample])[0]
        if "instances" not in output:
            raise UserError(
                f"{type(self.model).__name__} predicts no boxes; this draws detectors only."
            )
        return output["instances"].to("cpu")


def open_detector(
    source: str | Path,
    *,
    label: str,
    weights: str | None = None,
    overrides: Sequence[str] = (),
    allow_unsafe: bool = False,
) -> Shown:
    """The detector of a run's folder or of a config, in evaluation.

    Args:
        source: folder or config file.
        label: in pictures.
        weights: a file, or "random"; default the run's newest.
        overrides: of the config.
        allow_unsafe: let a file run code.
    """
    run = Path(source) if Path(source).is_dir() else None
    config = str(run / "config.yaml" if run is not None else source)
    sets = [*overrides, "train.init_checkpoint="]
    cfg = load_config(config, sets, allow_unsafe=allow_unsafe)
    told = _told_classes(cfg, run)
    if told and not _on_disk(cfg):  # answers need no data set, only names
        names = told
    elif scored_set(cfg) is not None:
        cfg = prepare(cfg, eval_only=True)
        names = class_names(cfg)
    elif not is_box_pretext(cfg.model):
        raise UserError(f"{config} has no dataloader.test; it is not that of a detector.")
    else:
        names = class_names(cfg)
    model = build_model(cfg)
    if weights is None and run is None:
        raise UserError("There are no weights: a config holds none; give --weights FILE.")
    if weights is None:
        assert run is not None
        _fill(model, run)
    elif weights != RANDOM:
        print(load_weights(model, weights, allow_missing=(), allow_unsafe=allow_unsafe))
    return Shown(label, model.eval(), whole_image_mapper(cfg), names, cfg)


def open_like(first: Shown, source: str, *, label: str, allow_unsafe: bool = False) -> Shown:
    """Another detector beside `first`: a run's folder, weights of the same config, or "random"."""
    if Path(source).is_dir():
        return open_detector(
            source,
            label=label,
            overrides=[f"train.device={first.cfg.train.device}"],
            allow_unsafe=allow_unsafe,
        )
    model = build_model(first.cfg)
    if source != RANDOM:
        print(load_weights(model, source, allow_missing=(), allow_unsafe=allow_unsafe))
    return Shown(label, model.eval(), first.mapper, first.names, first.cfg)


def _fill(model: nn.Module, run: Path) -> None:
    """With the newest weights of a run or the ones of a published folder."""
    state = newest_weights(run)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise UserError(
            f"The weights in '{run}' are not of the model of its config.yaml ({first} ...): one of "
            "the two was changed; copy the folder again."
        ) from None


def _told_classes(cfg: DictConfig, run: Path | None) -> list[str]:
    """What a run or a published folder itself says about its classes, which may be nothing."""
    if run is None:
        return []
    if is_box_pretext(cfg.model) or is_class_agnostic(cfg):
        return ["object"]
    told = read_manifest(run) if is_published(run) else read_run(run).summary
    found = told.get("classes")
    return list(map(str, found)) if isinstance(found, list) else []


def _on_disk(cfg: DictConfig) -> bool:
    test = scored_set(cfg)
    try:
        catalog.check(test.dataset.names if test is not None else [])
    except UserError:
        return False
    return True


def class_names(cfg: DictConfig) -> list[str]:
    """Of what the model answers."""
    if is_box_pretext(cfg.model) or is_class_agnostic(cfg):
        return ["object"]
    return list(catalog.class_names(cfg.dataloader.test.dataset.names))
