"""What a run says when it starts and leaves when it ends."""

import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from detectron2.utils import comm
from omegaconf import DictConfig

from d2_unsupdet import env
from d2_unsupdet.analysis.runs import flatten
from d2_unsupdet.checkpoint.files import atomic_write, sha256, write_json
from d2_unsupdet.checkpoint.report import LoadReport
from d2_unsupdet.checkpoint.stopped import STOPPED
from d2_unsupdet.data import catalog
from d2_unsupdet.data.annotations import report_bad_boxes
from d2_unsupdet.data.plan import BatchPlan
from d2_unsupdet.data.subsets import save_ids
from d2_unsupdet.engine.build import Hooks
from d2_unsupdet.engine.checks import is_class_agnostic
from d2_unsupdet.engine.config import dump_config, is_box_pretext, scored_set
from d2_unsupdet.engine.schedule import describe
from d2_unsupdet.engine.trainer import Trainer, unwrap
from d2_unsupdet.errors import UserError

SHOWN_CLASSES = 12
logger = logging.getLogger("d2_unsupdet.run")


def leave(cfg: DictConfig, output: Path, trainer: Trainer) -> None:
    """config.yaml (can be passed back as --config-file), environment.json, command.txt; the ids of
    a label subset, and one line on boxes that training leaves out."""
    (output / STOPPED).unlink(missing_ok=True)  # it goes on
    path, text = output / "config.yaml", dump_config(cfg)
    if path.exists():
        before, after = (
            flatten(yaml.safe_load(t), separator=".") for t in (path.read_text(), text)
        )
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                logger.warning("changed: %s %r -> %r", key, before.get(key), after.get(key))
    atomic_write(path, lambda file: file.write(text.encode()))
    write_json(output / "environment.json", env.summary())
    records, dataset = trainer.loader.dataset.records, cfg.dataloader.train.dataset
    if dataset.get("subset") is not None:
        save_ids(output / "subset.json", records, subset=str(dataset.subset))
    report_bad_boxes(records, str(dataset.names))
    command = shlex.join([Path(sys.executable).name, *sys.argv]) + "\n"
    atomic_write(output / "command.txt", lambda file: file.write(command.encode()))


@contextmanager
def reason_left(output: Path, trainer: Trainer) -> Iterator[None]:
    """Whatever ends training early is left in the run's folder too, where a report finds it."""
    try:
        yield
    except Exception as error:
        if comm.is_main_process():
            first = (str(error).strip() or "no message").splitlines()[0]
            reason = first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"
            with suppress(OSError):  # a full disk may be the reason
                write_json(output / STOPPED, {"reason": reason, "iteration": trainer.iter})
        raise


def say_start(
    cfg: DictConfig,
    trainer: Trainer,
    report: LoadReport | None,
    start: int,
    objects: int | None = None,
) -> None:
    """What a person wants to know before waiting for hours; `start` is the first step to run."""
    options, plan, model = cfg.train, trainer.loader.plan, unwrap(trainer.model)
    if str(options.recipe_length) != str(options.max_iter):
        logger.info(
            "train.max_iter=%s replaces the recipe's %s: milestones and warm-up scale with it",
            options.max_iter,
            options.recipe_length,
        )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad) / 1e6
    rates = sorted({group["lr"] for group in trainer.optimizer.param_groups}, reverse=True)
    groups = trainer.optimizer.param_groups
    kept = sum(p.numel() for g in groups if g.get("fixed_lr") for p in g["params"]) / 1e6
    fixed = f"; fixed for {kept:.2f} M parameters" if kept else ""
    parts = f" in {trainer.accumulate} micro-batches" if trainer.accumulate > 1 else ""
    share = f" ({_used(report)})" if report else ""
    amp = options.amp.dtype if options.amp.enabled else "fp32"
    spec = cfg.dataloader.train.dataset.get("subset")
    subset = "" if spec is None else f" (subset {spec})"
    found = "" if objects is None else f", {objects:,} objects"
    epochs = trainer.length * plan.batch / plan.size
    rows = {
        "model": f"{type(model).__name__}: {trained:.2f} M trained, {frozen:.2f} M not",
        "weights": f"the run's own after step {start}"
        if start
        else f"{options.init_checkpoint or 'random'}{share}",
        "data": f"{cfg.dataloader.train.dataset.names}: {plan.size:,} images{found}{subset}, "
        f"batch {plan.batch}{parts}",
        "length": f"{trainer.length} steps, {epochs:.2f} epochs",
        "rate": f"{', '.join(f'{r:g}' for r in rates)}; "
        f"{describe(trainer.multiplier, trainer.length)}{fixed}",
        "device": f"{trainer.device.type} x {trainer.world}, {amp}",
        "output": options.output_dir,
    }
    if objects is not None:
        rows["classes"] = classes_text(cfg.dataloader.train.dataset.names)
    warn_of_repeats(plan)
    if trainer.frozen.parameters:
        rows["frozen"] = str(trainer.frozen)
    for name, text in rows.items():
        logger.info("%-9s %s", name, text)


def classes_text(names: catalog.Names) -> str:
    """Number and names, so that mixed-up labels are seen before hours are spent on them."""
    try:
        classes = catalog.class_names(names, "thing")
    except UserError:  # registered elsewhere, without names
        return "without names"
    more = ", ..." if len(classes) > SHOWN_CLASSES else ""
    return f"{len(classes):,}: {', '.join(classes[:SHOWN_CLASSES])}{more}"


def _used(report: LoadReport) -> str:
    """What of the file was taken; what the user left out is no parameter that was lost."""
    share = f"{report.source_share:.1%} of its parameters used"
    if not report.dropped:
        return share
    return f"{len(report.dropped)} of its tensors left out, {share.replace('its', 'the other')}"


def _answered_classes(cfg: DictConfig) -> list[str]:
    """In the order of the model's outputs, for whoever has the weights and not the data."""
    test = scored_set(cfg)
    if test is None or is_box_pretext(cfg.model) or is_class_agnostic(cfg):
        return []
    try:
        return list(catalog.class_names(test.dataset.names))
    except UserError:
        return []


def warn_of_repeats(plan: BatchPlan) -> None:
    """Nothing is wrong with a batch larger than the data set, but hardly anybody means it."""
    if plan.batch > plan.size:
        logger.warning(
            "dataloader.train.total_batch_size=%d is more than the %d images there are: every step "
            "sees some of them several times",
            plan.batch,
            plan.size,
        )


def write_summary(
    cfg: DictConfig,
    output: Path,
    *,
    trainer: Trainer,
    hooks: Hooks,
    report: LoadReport | None,
    digest: str,
    seconds: float,
) -> None:
    """summary.json: what the report and other tools read first."""
    test = scored_set(cfg)
    summary: dict[str, Any] = {
        "kind": "pretrain" if hooks.export else "finetune",
        "method": type(unwrap(trainer.model)).__name__,
        "data": str(cfg.dataloader.train.dataset.names),
        "test": str(test.dataset.names) if test is not None else None,
        "classes": _answered_classes(cfg),
        "iterations": trainer.length,
        "images": trainer.loader.plan.size,
        "seconds": round(seconds, 1),
        "result": hooks.evaluation.results if hooks.evaluation else {},
        "init_checkpoint": cfg.train.init_checkpoint or None,
        "init_coverage": report.source_share if report else None,
        "exports": [{"file": str(p), "sha256": sha256(p)} for p in hooks.export.paths]
        if hooks.export
        else [],
        "state_sha256": digest,
        "seed": cfg.train.seed,
        "notes": trainer.notes,  # such as the boxes that nobody drew: generation and hash
    }
    write_json(output / "summary.json", summary)
