"""Which weights `--eval-only` scores, and where the detections of others than the run's own go.

The run's own newest checkpoint comes first: its config names the weights it *started* from, whose
score nobody means. An override of `train.init_checkpoint` on the command line beats it.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import DictConfig
from torch import nn

from d2_unsupdet.checkpoint.checkpointer import RunCheckpointer
from d2_unsupdet.checkpoint.class_heads import is_class_tensor
from d2_unsupdet.checkpoint.load import load_weights
from d2_unsupdet.checkpoint.pretext_names import WRAPPER, is_own, is_wrapped
from d2_unsupdet.checkpoint.stopped import no_checkpoint, why_stopped
from d2_unsupdet.errors import UserError

logger = logging.getLogger("d2_unsupdet.run")
KEYS = ("train.init_checkpoint", "MODEL.WEIGHTS")


def names_weights(overrides: Sequence[str]) -> bool:
    """Whether the command line says which file to take."""
    return any(override.partition("=")[0] in KEYS for override in overrides)


def scores_own(cfg: DictConfig, *, resume: bool, chosen: bool) -> bool:
    """Whether the run's own checkpoint is scored and not `train.init_checkpoint`.

    A run that an error ended before its first checkpoint has nothing to score: a UserError.

    Args:
        cfg: the run's config.
        resume: `--resume` was given.
        chosen: `train.init_checkpoint` is an override of the command line.
    """
    if resume or not cfg.train.init_checkpoint:
        return True
    output = Path(cfg.train.output_dir)
    if not chosen and not _holds_run(output) and why_stopped(output):
        raise UserError(
            f"--eval-only: {no_checkpoint(output)} Mend that and train again, or name the weights "
            "to score: train.init_checkpoint=FILE."
        )
    return not chosen and _holds_run(output)


def load_own(cfg: DictConfig, model: nn.Module) -> None:
    """The newest checkpoint of `train.output_dir`: its moving average if it has one."""
    output = Path(cfg.train.output_dir)
    state = RunCheckpointer(output, keep_last=0).latest()
    if state is None:
        raise UserError(
            f"--eval-only: {no_checkpoint(output)} Train it, or name the weights to score: "
            "train.init_checkpoint=FILE."
        )
    average = state.get("ema")
    try:
        model.load_state_dict(average["average"] if average else state["model"])
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise UserError(
            f"--eval-only: the checkpoint in '{output}' is not of the model of this config "
            f"({first} ...); take the run's own config.yaml."
        ) from error
    numbered = output / f"model_{state['iteration']:07d}.pth"
    path = numbered if numbered.exists() else output / "model_final.pth"
    if cfg.train.init_checkpoint:
        logger.info(
            "the run's own weights come before train.init_checkpoint=%s, from which it started; an "
            "override train.init_checkpoint=FILE scores another file",
            cfg.train.init_checkpoint,
        )
    kind = "moving average" if average else "weights"
    logger.info("scoring the %s after step %d, %s", kind, state["iteration"] + 1, path)


def load_file(cfg: DictConfig, model: nn.Module, *, allow_unsafe: bool) -> None:
    """All of `train.init_checkpoint`: a score of half-loaded weights says nothing."""
    path, choice = cfg.train.init_checkpoint, cfg.train.init.classes
    report = load_weights(
        model,
        path,
        allow_unsafe=allow_unsafe,
        allow_missing=["*"],
        # Another pretext's heads may be half of its file; what the model lacks is asked below.
        min_coverage=0.0 if is_wrapped(model.state_dict()) else 0.9,
        classes=choice,
    )
    logger.info("%s", report)
    lost = _asked(report.new, model)
    if choice != "drop" and lost and all(is_class_tensor(n.removeprefix(WRAPPER)) for n in lost):
        output = Path(cfg.train.output_dir)
        began = (output / "config.yaml").is_file() and not _holds_run(output)
        run = f"{no_checkpoint(output)} " if began else ""
        raise UserError(
            f"--eval-only: {run}'{path}' is an export, which has no class heads, so it cannot be "
            "scored: finetune it first, or give the model_final.pth beside it."
        )
    if lost:
        names = ", ".join(lost[:3]) + (", ..." if len(lost) > 3 else "")
        why = (
            f"train.init.classes={choice} drops the file's heads"
            if choice == "drop"
            else f"'{path}' lacks {len(lost)} tensors of the model ({names})"
        )
        raise UserError(
            f"--eval-only has nothing to evaluate: {why}; give a complete file, the run's "
            "model_final.pth" + (", and train.init.classes=keep." if choice == "drop" else ".")
        )
    logger.info("scoring %s", path)


def _asked(names: Iterable[str], model: nn.Module) -> list[str]:
    """Without the heads that a pretext has of its own: its answers do not need them."""
    wrapped = is_wrapped(model.state_dict())
    return [name for name in names if not (wrapped and is_own(name))]


def keep_results_apart(cfg: DictConfig) -> None:
    """Give other weights a folder of their own beside the detections of a run."""
    output, path = Path(cfg.train.output_dir), Path(cfg.train.init_checkpoint)
    if not _holds_run(output) or results_folder(cfg) is None:
        return
    place = (
        path.stem
        if path.parent.resolve() == output.resolve()
        else f"{path.parent.name}_{path.stem}"
    )
    folder = output / f"evaluation_{re.sub(r'[^A-Za-z0-9_.-]', '_', place)}"  # hub:... has a colon
    cfg.dataloader.evaluator.output_dir = str(folder)
    logger.info("'%s' holds a run, whose detections stay: these go to %s", output, folder)


def results_folder(cfg: DictConfig) -> str | None:
    """Where the evaluator writes, if it does."""
    evaluator = cfg.dataloader.get("evaluator")
    return evaluator.get("output_dir") if isinstance(evaluator, DictConfig) else None


def _holds_run(output: Path) -> bool:
    """Numbered or final checkpoints; `model_best.pth` alone is no point to go on from."""
    names = [path.name for path in output.glob("model_*.pth")]
    return any(name != "model_best.pth" for name in names)
