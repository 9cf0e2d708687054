"""From a config to a finished run: check, build, resume or load, train, evaluate, leave a record.

    config ─ prepare ─ launch ─ train ─ model, optimizer, loader, hooks ─ Trainer ─ summary.json
                              └ evaluate ─ model, test loader, evaluator ─ scores

`prepare` does everything that can fail on bad input, before any process starts work.
"""

import json
import logging
import shlex
import sys
import time
from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import instantiate
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d2_unsupdet import env
from d2_unsupdet.checkpoint.checkpointer import RunCheckpointer
from d2_unsupdet.checkpoint.files import atomic_write, check_exists
from d2_unsupdet.checkpoint.load import LoadReport, load_weights
from d2_unsupdet.data import catalog
from d2_unsupdet.engine.activation_checkpoint import checkpoint_blocks
from d2_unsupdet.engine.config import dump_config, nodes, resolve_class_count, to_plain
from d2_unsupdet.engine.digest import state_digest
from d2_unsupdet.engine.ema import ModelEMA
from d2_unsupdet.engine.guard import FiniteGuard
from d2_unsupdet.engine.hooks import CheckpointHook, EvaluationHook, ExportHook, MetricsHook
from d2_unsupdet.engine.pictures import PicturesHook
from d2_unsupdet.engine.schedule import describe, to_iterations
from d2_unsupdet.engine.sync_batch_norm import resolve_sync_bn, use_sync_bn
from d2_unsupdet.engine.trainer import AMP_DTYPES, Trainer, unwrap
from d2_unsupdet.engine.writers import build_writers
from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation import inference_on_dataset
from d2_unsupdet.seeding import seed_everything

logger = logging.getLogger("d2_unsupdet.run")


def prepare(
    cfg: DictConfig, *, eval_only: bool = False, resume: bool = False, processes: int = 1
) -> DictConfig:
    """Check the config against the data, the disk and the machine; fill in what the data knows."""
    train = cfg.train
    sets = [part for part in ("train", "test") if cfg.dataloader.get(part) is not None]
    names = {part: cfg.dataloader[part].dataset.names for part in sets}
    needed = ["test"] if eval_only else sets
    if eval_only and "test" not in names:
        raise UserError("--eval-only needs dataloader.test; a pretraining config has none.")
    for part in needed:
        catalog.check(names[part])
    if any("num_classes" in node for _, node in nodes(cfg.model)):
        labelled = [name for part in sets for name in catalog.split_names(names[part])]
        resolve_class_count(cfg, catalog.class_names(labelled), ", ".join(labelled))
    if train.init_checkpoint:
        check_exists(Path(train.init_checkpoint))
    if train.amp.enabled and train.amp.dtype not in AMP_DTYPES:
        raise UserError(f"train.amp.dtype='{train.amp.dtype}' is not one of bf16, fp16.")
    if not eval_only:
        tag = Path(train.output_dir) / "last_checkpoint"
        if tag.exists() and not resume:
            raise UserError(
                f"'{train.output_dir}' already holds a run ({tag.read_text().strip()}); go on with "
                "--resume, or choose another train.output_dir."
            )
        batch = cfg.dataloader.train.total_batch_size
        parts = processes * train.accumulate
        if batch % parts:
            raise UserError(
                f"dataloader.train.total_batch_size={batch} cannot be shared by {processes} "
                f"process(es) in {train.accumulate} micro-batch(es); use a multiple of {parts}."
            )
        to_iterations(train.max_iter, size=1, batch=batch)
    return cfg


def build_model(cfg: DictConfig) -> nn.Module:
    """The model on its device, initialised from `train.seed` alone."""
    seed_everything(cfg.train.seed, "init")
    model = instantiate(cfg.model).to(_device(cfg))
    if cfg.train.sync_bn:
        model = use_sync_bn(model)
    model = resolve_sync_bn(model)
    if cfg.train.activation_checkpointing:
        logger.info("activation checkpointing: %d blocks", checkpoint_blocks(model))
    return model


def _device(cfg: DictConfig) -> torch.device:
    if cfg.train.device != "auto":
        return torch.device(cfg.train.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _load_initial(cfg: DictConfig, model: nn.Module, allow_unsafe: bool) -> LoadReport | None:
    if not cfg.train.init_checkpoint:
        return None
    report = load_weights(
        model,
        cfg.train.init_checkpoint,
        allow_unsafe=allow_unsafe,
        **to_plain(cfg.train.init),
    )
    logger.info("%s", report)
    return report


def _distribute(cfg: DictConfig, model: nn.Module) -> nn.Module:
    if comm.get_world_size() == 1:
        return model
    device = next(model.parameters()).device
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, **to_plain(cfg.train.ddp))


class Evaluation:
    """Scores of a model on `dataloader.test`, read once and used at every evaluation.

    Args:
        cfg: the run's config.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.loader = instantiate(cfg.dataloader.test)
        self.evaluator = instantiate(cfg.dataloader.evaluator)

    def __call__(self, model: nn.Module) -> dict[str, Any]:
        """Nested scores; empty on ranks other than 0."""
        return inference_on_dataset(model, self.loader, self.evaluator) or {}


def train(plain: dict, options: Mapping[str, Any]) -> None:
    """One process of a training run. `plain` is `to_plain` of a prepared config."""
    cfg = OmegaConf.create(plain, flags={"allow_objects": True})
    output = Path(cfg.train.output_dir)
    _set_up_logging(output)
    _backends(cfg)
    begin = time.monotonic()

    model = build_model(cfg)
    report = None
    checkpointer = RunCheckpointer(output, keep_last=cfg.train.checkpointer.max_to_keep)
    state = checkpointer.latest() if options["resume"] else None
    _agree_on(state)
    if state is None:
        report = _load_initial(cfg, model, options["allow_unsafe"])
    loader = instantiate(cfg.dataloader.train)
    plan = loader.plan
    length = to_iterations(cfg.train.max_iter, size=plan.size, batch=plan.batch)

    def period(key: str, value: int | str) -> int:
        return to_iterations(value, size=plan.size, batch=plan.batch, key=key) if value else 0

    optimizer_cfg = deepcopy(cfg.optimizer)
    optimizer_cfg.params.model = model
    optimizer = instantiate(optimizer_cfg)
    multiplier = instantiate(cfg.lr_multiplier)
    ema_cfg = cfg.train.ema
    trainer = Trainer(
        model=_distribute(cfg, model),
        optimizer=optimizer,
        loader=loader,
        multiplier=multiplier,
        seed=cfg.train.seed,
        amp=cfg.train.amp.dtype if cfg.train.amp.enabled else None,
        accumulate=cfg.train.accumulate,
        clip_norm=cfg.train.clip_grad_norm,
        ema=ModelEMA(model, decay=ema_cfg.decay) if ema_cfg.enabled else None,
        guard=FiniteGuard(output_dir=output, config=cfg, seed=cfg.train.seed),
    )
    start = 0
    if state is not None:
        trainer.load_state_dict(state)
        start = state["iteration"] + 1
        logger.info("resumed after step %d", start)
    elif options["resume"]:
        logger.info("nothing to resume in %s: starting from step 0", output)

    scores = Evaluation(cfg) if cfg.dataloader.get("test") is not None else None
    evaluation = None
    if scores is not None:
        evaluation = EvaluationHook(
            period("train.eval_period", cfg.train.eval_period),
            partial(_evaluate_now, cfg, trainer, scores),
            checkpointer,
            best_metric=cfg.train.best_metric,
        )
    export = None
    if hasattr(model, "export"):
        meta = {"method": type(model).__name__, "data": str(cfg.dataloader.train.dataset.names)}
        export = ExportHook(
            period("train.checkpointer.period", cfg.train.checkpointer.period), output, meta
        )
    main = comm.is_main_process()
    writers = (
        build_writers(
            list(cfg.train.writers),
            output,
            max_iter=length,
            start_iter=start,
            config=plain,
        )
        if main
        else []
    )
    trainer.register_hooks(
        [
            MetricsHook(cfg.train.log_period, max_bad_rate=cfg.train.max_bad_images),
            evaluation,
            PicturesHook(cfg, output, scores.loader if scores else None)
            if main and cfg.train.pictures else None,
            CheckpointHook(
                period("train.checkpointer.period", cfg.train.checkpointer.period), checkpointer
            ),
            export,
            PeriodicWriter(writers, period=cfg.train.log_period) if main else None,
        ]
    )
    if main:
        _leave_record(cfg, output, plain)
        _say_start(cfg, trainer, length, report)
    if start < length:
        trainer.train(start, length)
    else:
        logger.info("step %d of %d: the run is already complete", start, length)
    if main:
        digest = state_digest(trainer.state_dict())
        _write_summary(
            cfg,
            output,
            model=unwrap(trainer.model),
            seconds=time.monotonic() - begin,
            iterations=length,
            results=evaluation.results if evaluation else {},
            report=report,
            digest=digest,
            exports=[str(path) for path in export.paths] if export else [],
        )
        logger.info("final state sha256 %s", digest)


def _agree_on(state: dict | None) -> None:
    """Ranks that found different checkpoints would wait for each other for ever."""
    steps = comm.all_gather(state["iteration"] if state else None)
    if len(set(steps)) > 1:
        raise UserError(
            f"--resume: the processes found checkpoints of different steps, {steps}; the output "
            "folder must be shared by all machines."
        )


def _evaluate_now(cfg: DictConfig, trainer: Trainer, scores: Evaluation) -> dict[str, Any]:
    if cfg.train.precise_bn.enabled:
        from fvcore.nn.precise_bn import update_bn_stats

        model = unwrap(trainer.model)
        model.train()
        update_bn_stats(model, trainer.loader.from_step(0), cfg.train.precise_bn.num_iter)
    return scores(unwrap(trainer.model))


def evaluate(plain: dict, options: Mapping[str, Any]) -> None:
    """One process of `--eval-only`: the weights of the run (`--resume`) or `train.init_checkpoint`."""
    cfg = OmegaConf.create(plain, flags={"allow_objects": True})
    output = Path(cfg.train.output_dir)
    _set_up_logging(output)
    model = build_model(cfg)
    path = cfg.train.init_checkpoint
    if options["resume"] or not path:
        state = RunCheckpointer(output, keep_last=0).latest()
        if state is None:
            raise UserError(
                f"--eval-only: no weights; '{output}' holds no checkpoint and "
                "train.init_checkpoint is empty."
            )
        average = state.get("ema")
        model.load_state_dict(average["average"] if average else state["model"])
        logger.info("evaluating the %s of %s", "moving average" if average else "weights", output)
    else:
        report = load_weights(
            model, path, allow_unsafe=options["allow_unsafe"], allow_missing=()
        )
        logger.info("%s", report)
    results = Evaluation(cfg)(model)
    if comm.is_main_process():
        print(json.dumps(results, indent=2))


def _set_up_logging(output: Path) -> None:
    for name in ("d2_unsupdet", "detectron2", "fvcore"):
        setup_logger(str(output), distributed_rank=comm.get_rank(), name=name, abbrev_name=name)


def _backends(cfg: DictConfig) -> None:
    if cfg.train.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = bool(cfg.train.cudnn_benchmark)


def _leave_record(cfg: DictConfig, output: Path, plain: dict) -> None:
    """config.yaml (can be passed back as --config-file), environment.json, command.txt."""
    path = output / "config.yaml"
    if path.exists():
        before = flatten(yaml.safe_load(path.read_text()))
        after = flatten(plain)
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                logger.warning("changed: %s %r -> %r", key, before.get(key), after.get(key))
    _write_text(path, dump_config(cfg))
    _write_text(output / "environment.json", json.dumps(env.summary(), indent=2))
    _write_text(output / "command.txt", shlex.join([Path(sys.executable).name, *sys.argv]) + "\n")


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    if not isinstance(tree, dict):
        return {path: tree}
    result: dict[str, Any] = {}
    for key, value in tree.items():
        result.update(flatten(value, f"{path}.{key}" if path else str(key)))
    return result


def _say_start(
    cfg: DictConfig, trainer: Trainer, length: int, report: LoadReport | None
) -> None:
    """What a person wants to know before waiting for hours."""
    model, plan = unwrap(trainer.model), trainer.loader.plan
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    epochs = length * plan.batch / plan.size
    rates = sorted({group["lr"] for group in trainer.optimizer.param_groups}, reverse=True)
    recipe = cfg.train.recipe_length
    if str(recipe) != str(cfg.train.max_iter):
        logger.info(
            "train.max_iter=%s replaces the recipe's %s: milestones and warm-up scale with it",
            cfg.train.max_iter,
            recipe,
        )
    amp = cfg.train.amp.dtype if cfg.train.amp.enabled else "fp32"
    start = cfg.train.init_checkpoint or "random"
    share = f" ({report.source_share:.1%} of its parameters used)" if report else ""
    for line in (
        f"model     {type(model).__name__}: {trained / 1e6:.2f} M trained, {frozen / 1e6:.2f} M not",
        f"weights   {start}{share}",
        f"data      {cfg.dataloader.train.dataset.names}: {plan.size} images, batch {plan.batch}"
        + (f" in {trainer.accumulate} micro-batches" if trainer.accumulate > 1 else ""),
        f"length    {length} steps, {epochs:.2f} epochs",
        f"rate      {', '.join(f'{r:g}' for r in rates)}; {describe(trainer.multiplier, length)}",
        f"device    {trainer.device.type} x {comm.get_world_size()}, {amp}",
        f"output    {cfg.train.output_dir}",
    ):
        logger.info(line)


def _write_summary(
    cfg: DictConfig,
    output: Path,
    *,
    model: nn.Module,
    seconds: float,
    iterations: int,
    results: dict[str, Any],
    report: LoadReport | None,
    digest: str,
    exports: list[str],
) -> None:
    test = cfg.dataloader.get("test")
    summary = {
        "kind": "pretrain" if hasattr(model, "export") else "finetune",
        "method": type(model).__name__,
        "data": str(cfg.dataloader.train.dataset.names),
        "test": str(test.dataset.names) if test is not None else None,
        "iterations": iterations,
        "seconds": round(seconds, 1),
        "result": results,
        "init_checkpoint": cfg.train.init_checkpoint or None,
        "init_coverage": report.source_share if report else None,
        "state_sha256": digest,
        "exports": exports,
        "seed": cfg.train.seed,
    }
    _write_text(output / "summary.json", json.dumps(summary, indent=2))


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda file: file.write(text.encode()))
