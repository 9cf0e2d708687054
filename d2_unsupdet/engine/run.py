"""From a config to a finished run: check, build, resume or load, train, evaluate, leave a record.

    config ─ prepare ─ launch ─┬ train ─ build_model, build_trainer, build_hooks ─ record
                               └ evaluate ─ build_model, Evaluation

`prepare` does everything that can fail on bad input, before any process starts work.
"""

import json
import logging
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch import nn

from d2_unsupdet.checkpoint.checkpointer import RunCheckpointer
from d2_unsupdet.checkpoint.load import load_weights
from d2_unsupdet.checkpoint.report import LoadReport
from d2_unsupdet.engine import record
from d2_unsupdet.engine.box_checks import check_images
from d2_unsupdet.engine.build import Evaluation, build_hooks, build_model, build_trainer
from d2_unsupdet.engine.checks import prepare
from d2_unsupdet.engine.config import to_plain
from d2_unsupdet.engine.digest import state_digest
from d2_unsupdet.engine.objects import training_objects
from d2_unsupdet.engine.own_report import leave_report
from d2_unsupdet.engine.scored_weights import (
    keep_results_apart,
    load_file,
    load_own,
    results_folder,
    scores_own,
)
from d2_unsupdet.errors import UserError

__all__ = ["evaluate", "prepare", "train"]

logger = logging.getLogger("d2_unsupdet.run")


def train(plain: dict, options: Mapping[str, Any]) -> None:
    """One process of a training run.

    Args:
        plain: `to_plain` of a prepared config.
        options: `resume` and `allow_unsafe`, as on the command line.
    """
    cfg = OmegaConf.create(plain, flags={"allow_objects": True})
    output = Path(cfg.train.output_dir)
    _set_up_logging(output)
    # Pillow's arrays cannot be written to; the mirrors of fvcore, which PyTorch warns, only read.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    begin = time.monotonic()

    model = build_model(cfg)
    checkpointer = RunCheckpointer(output, keep_last=cfg.train.checkpointer.max_to_keep)
    state = checkpointer.latest() if options["resume"] else None
    _agree_on(state)
    report = None
    if state is None:
        report = _load_initial(cfg, model, options["allow_unsafe"])
        if hasattr(model, "begin"):  # a pretext copies its frozen teacher from starting weights
            start_from: Any = model.begin
            start_from(loaded=report is not None)
    trainer = build_trainer(cfg, model)
    if state is None:
        check_images(cfg, trainer.loader.dataset.records)
    objects = training_objects(trainer.loader.dataset, str(cfg.dataloader.train.dataset.names))
    if hasattr(model, "check_run"):  # a method knows what fits the data and what does not
        plan = trainer.loader.plan
        model.check_run(batch=plan.batch, images=plan.size)  # type: ignore[operator]
    start = 0
    if state is not None:
        trainer.load_state_dict(state)
        start = state["iteration"] + 1
        logger.info("resumed after step %d", start)
    elif options["resume"]:
        logger.info("nothing to resume in %s: starting from step 0", output)
    del state

    if comm.is_main_process():
        record.leave(cfg, output, trainer)
        record.say_start(cfg, trainer, report, start, objects)
    hooks = build_hooks(cfg, trainer, checkpointer, start)
    trainer.register_hooks(hooks.in_order())
    if start < trainer.length:
        with record.reason_left(output, trainer):
            trainer.train(start, trainer.length)
    else:
        logger.info("all %d steps are done", trainer.length)
        hooks.finish(trainer)
    if comm.is_main_process():
        digest = state_digest(trainer.state_dict())
        record.write_summary(
            cfg,
            output,
            trainer=trainer,
            hooks=hooks,
            report=report,
            digest=digest,
            seconds=time.monotonic() - begin,
        )
        if cfg.train.report:
            leave_report(output)
        logger.info("final state sha256 %s", digest)


def evaluate(plain: dict, options: Mapping[str, Any]) -> None:
    """One process of `--eval-only`; which weights it scores, see `scored_weights`.

    Args:
        plain: `to_plain` of a prepared config.
        options: as for `train`, and `weights_chosen`: `train.init_checkpoint` is an override.
    """
    cfg = OmegaConf.create(plain, flags={"allow_objects": True})
    _set_up_logging(Path(cfg.train.output_dir))
    model = build_model(cfg)
    own = scores_own(cfg, resume=options["resume"], chosen=options.get("weights_chosen", False))
    if own:
        load_own(cfg, model)
    else:
        load_file(cfg, model, allow_unsafe=options["allow_unsafe"])
        keep_results_apart(cfg)
    if folder := results_folder(cfg):
        logger.info("detections go to %s", folder)
    results = Evaluation(cfg)(model)
    if comm.is_main_process():
        print(json.dumps(results, indent=2))


def _load_initial(cfg: DictConfig, model: nn.Module, allow_unsafe: bool) -> LoadReport | None:
    if not cfg.train.init_checkpoint:
        return None
    report = load_weights(
        model, cfg.train.init_checkpoint, allow_unsafe=allow_unsafe, **to_plain(cfg.train.init)
    )
    logger.info("%s", report)
    return report


def _agree_on(state: dict | None) -> None:
    """Ranks that found different checkpoints would wait for each other for ever."""
    steps = comm.all_gather(state["iteration"] if state else None)
    if len(set(steps)) > 1:
        raise UserError(
            f"--resume: the processes found checkpoints of different steps, {steps}; the output "
            "folder must be shared by all machines."
        )


def _set_up_logging(output: Path) -> None:
    for name in ("d2_unsupdet", "detectron2", "fvcore"):
        setup_logger(str(output), distributed_rank=comm.get_rank(), name=name, abbrev_name=name)
    # Detectron2's loop logs a traceback of whatever ends it; a sentence for the user needs none.
    logging.getLogger("detectron2.engine.train_loop").addFilter(_is_no_sentence)


def _is_no_sentence(record: logging.LogRecord) -> bool:
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, UserError)
