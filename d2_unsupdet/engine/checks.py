"""What can fail on bad input fails here, as one sentence, before any process starts work."""

from pathlib import Path

from omegaconf import DictConfig

from d2_unsupdet.checkpoint.files import check_exists
from d2_unsupdet.data import catalog
from d2_unsupdet.engine.config import nodes, resolve_class_count
from d2_unsupdet.engine.schedule import to_iterations
from d2_unsupdet.engine.trainer import AMP_DTYPES
from d2_unsupdet.errors import UserError


def prepare(
    cfg: DictConfig, *, eval_only: bool = False, resume: bool = False, processes: int = 1
) -> DictConfig:
    """Check the config against the data, the disk and the machine; fill in what the data knows."""
    loaders = cfg.dataloader
    if eval_only and loaders.get("test") is None:
        raise UserError("--eval-only needs dataloader.test; a pretraining config has none.")
    used = ["test"] if eval_only else [p for p in ("train", "test") if loaders.get(p) is not None]
    names = [n for part in used for n in catalog.split_names(loaders[part].dataset.names)]
    catalog.check(names)
    if any("num_classes" in node for _, node in nodes(cfg.model)):
        resolve_class_count(cfg, catalog.class_names(names), ", ".join(names))
    if cfg.train.init_checkpoint:
        check_exists(Path(cfg.train.init_checkpoint))
    if cfg.train.amp.enabled and cfg.train.amp.dtype not in AMP_DTYPES:
        raise UserError(f"train.amp.dtype='{cfg.train.amp.dtype}' is not one of bf16, fp16.")
    if not eval_only:
        _check_training(cfg, resume, processes)
    return cfg


def _check_training(cfg: DictConfig, resume: bool, processes: int) -> None:
    tag = Path(cfg.train.output_dir) / "last_checkpoint"
    if tag.exists() and not resume:
        raise UserError(
            f"'{cfg.train.output_dir}' already holds a run ({tag.read_text().strip()}); go on with "
            "--resume, or choose another train.output_dir."
        )
    batch = cfg.dataloader.train.total_batch_size
    parts = processes * cfg.train.accumulate
    if batch % parts:
        raise UserError(
            f"dataloader.train.total_batch_size={batch} cannot be shared by {processes} "
            f"process(es) in {cfg.train.accumulate} micro-batch(es); use a multiple of {parts}."
        )
    to_iterations(cfg.train.max_iter, size=1, batch=batch)
