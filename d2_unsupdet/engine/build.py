"""The parts of a run from its config: model, trainer, hooks."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d2_unsupdet.checkpoint.checkpointer import RunCheckpointer
from d2_unsupdet.data import catalog
from d2_unsupdet.data.loader import build_test_loader
from d2_unsupdet.detectors import DETR
from d2_unsupdet.engine.activation_checkpoint import checkpoint_blocks
from d2_unsupdet.engine.answer_pictures import AnswerPictures
from d2_unsupdet.engine.class_images import count_class_images
from d2_unsupdet.engine.config import scored_set, to_plain
from d2_unsupdet.engine.ema import ModelEMA
from d2_unsupdet.engine.freeze import freeze
from d2_unsupdet.engine.gallery import Gallery
from d2_unsupdet.engine.guard import FiniteGuard
from d2_unsupdet.engine.hooks import CheckpointHook, EvaluationHook, ExportHook, MetricsHook
from d2_unsupdet.engine.insight_pictures import InsightPictures
from d2_unsupdet.engine.model_parts import instantiate_model
from d2_unsupdet.engine.model_state import share_statistics
from d2_unsupdet.engine.objects import warn_without_objects
from d2_unsupdet.engine.pictures import PicturesHook
from d2_unsupdet.engine.pinned_boxes import PinnedBoxesHook
from d2_unsupdet.engine.precise_statistics import update_statistics
from d2_unsupdet.engine.probe_hook import DEFAULT_SIZE, KnnProbeHook
from d2_unsupdet.engine.refresh import PriorRefreshHook
from d2_unsupdet.engine.schedule import to_iterations
from d2_unsupdet.engine.sync_batch_norm import resolve_sync_bn, use_sync_bn
from d2_unsupdet.engine.trainer import Trainer, unwrap
from d2_unsupdet.engine.whole_images import whole_image_mapper
from d2_unsupdet.engine.writers import WritersHook, build_writers
from d2_unsupdet.evaluation import inference_on_dataset
from d2_unsupdet.evaluation.build import restrict
from d2_unsupdet.pretext.box_pretext import BoxPretext
from d2_unsupdet.seeding import seed_everything


def choose_device(name: str) -> str:
    """ "auto" is CUDA if there is one."""
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def build_model(cfg: DictConfig) -> nn.Module:
    """The model on its device, initialised from `train.seed` alone."""
    seed_everything(cfg.train.seed, "init")
    device = choose_device(cfg.train.device)
    order = torch.channels_last if cfg.train.channels_last else torch.preserve_format
    model = instantiate_model(cfg.model)
    model = model.to(device, memory_format=order)  # type: ignore[call-overload]
    if cfg.train.sync_bn:
        model = use_sync_bn(model)
    model = resolve_sync_bn(model)
    if cfg.train.activation_checkpointing:
        checkpoint_blocks(model)
    return model


def build_trainer(cfg: DictConfig, model: nn.Module) -> Trainer:
    """The trainer of a model; it knows its length in steps."""
    options = cfg.train
    if options.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = bool(options.cudnn_benchmark)
    loader = instantiate(cfg.dataloader.train)
    count_class_images(model, loader.dataset, cfg.dataloader.train.dataset.names)
    frozen = freeze(model, list(options.freeze))
    optimizer = deepcopy(cfg.optimizer)
    optimizer.params.model = model
    return Trainer(
        model=_distribute(cfg, model),
        optimizer=instantiate(optimizer),
        loader=loader,
        multiplier=instantiate(cfg.lr_multiplier),
        length=to_iterations(options.max_iter, size=loader.plan.size, batch=loader.plan.batch),
        seed=options.seed,
        amp=options.amp.dtype if options.amp.enabled else None,
        accumulate=options.accumulate,
        clip_norm=options.clip_grad_norm,
        ema=ModelEMA(model, decay=options.ema.decay) if options.ema.enabled else None,
        guard=FiniteGuard(output_dir=Path(options.output_dir), config=cfg, seed=options.seed),
        frozen=frozen,
    )


def _distribute(cfg: DictConfig, model: nn.Module) -> nn.Module:
    if comm.get_world_size() == 1:
        return model
    device = next(model.parameters()).device
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, **to_plain(cfg.train.ddp))


class Evaluation:
    """Scores of a model on `dataloader.test`, which is read once and used at every evaluation.

    Args:
        cfg: the run's config.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.loader = instantiate(cfg.dataloader.test)
        warn_without_objects(self.loader.dataset, str(cfg.dataloader.test.dataset.names))
        self.evaluator = instantiate(cfg.dataloader.evaluator)
        dataset = cfg.dataloader.test.dataset
        if dataset.get("subset") is not None or not dataset.get("keep_empty", True):
            restrict(self.evaluator, [record["image_id"] for record in self.loader.dataset.records])

    def __call__(self, model: nn.Module) -> dict[str, Any]:
        """Nested scores; empty on ranks other than 0."""
        return inference_on_dataset(model, self.loader, self.evaluator) or {}


@dataclass(kw_only=True)
class Hooks:
    """The hooks of a run by what they do; None where the run has no use for one."""

    metrics: MetricsHook
    boxes: PriorRefreshHook | PinnedBoxesHook
    evaluation: EvaluationHook | None
    pictures: PicturesHook | None
    probe: KnnProbeHook | None
    writers: WritersHook | None
    checkpoint: CheckpointHook
    export: ExportHook | None

    def in_order(self) -> list[HookBase | None]:
        """Writers before the checkpoint: a line that is lost to a kill belongs to a step that will
        run again, and a line that is kept to one that is cut."""
        return [
            self.metrics,
            self.boxes,  # before the checkpoint, which names the generation
            self.evaluation,
            self.pictures,
            self.probe,
            self.writers,
            self.checkpoint,
            self.export,
        ]

    def finish(self, trainer: Trainer) -> None:
        """What follows the last step, for a run whose steps are all done: a kill may have come
        between its last checkpoint and its scores."""
        trainer.iter = trainer.length - 1
        trainer.learning_rate()  # as the last step left it: it is part of the state's hash
        with EventStorage(trainer.iter) as trainer.storage:
            for hook in (self.evaluation, self.export):
                if hook is not None:
                    hook.act()
            trainer.iter = trainer.length
            for other in (self.pictures, self.writers):
                if other is not None:
                    other.after_train()


def build_hooks(
    cfg: DictConfig, trainer: Trainer, checkpointer: RunCheckpointer, start: int
) -> Hooks:
    """Hooks for a run that goes on at step `start`."""
    options, plan = cfg.train, trainer.loader.plan
    output, model = Path(options.output_dir), unwrap(trainer.model)

    def period(key: str, value: int | str) -> int:
        return to_iterations(value, size=plan.size, batch=plan.batch, key=key) if value else 0

    saves = period("train.checkpointer.period", options.checkpointer.period)
    scores = Evaluation(cfg) if scored_set(cfg) is not None else None
    main = comm.is_main_process()
    writers = []
    if main:
        writers = build_writers(
            list(options.writers),
            output,
            max_iter=trainer.length,
            start_iter=start,
            config=to_plain(cfg),
        )
    evaluations = period("train.eval_period", options.eval_period)
    boxes = _build_refresh(cfg, trainer, period("train.refresh.period", options.refresh.period))
    meta = {"method": type(model).__name__, "data": str(cfg.dataloader.train.dataset.names)}

    def evaluate() -> dict[str, Any]:
        if options.precise_bn.enabled:
            model.train()
            trainer.frozen.hold()
            update_statistics(model, trainer.loader, options.precise_bn.num_iter)
        share_statistics(model)
        if options.precise_bn.enabled and trainer.ema is not None:
            trainer.ema.adopt_statistics(model)
        return scores(model) if scores else {}

    return Hooks(
        metrics=MetricsHook(options.log_period, max_bad_rate=options.max_bad_images),
        boxes=boxes or PinnedBoxesHook(),
        evaluation=EvaluationHook(
            evaluations,
            evaluate,
            checkpointer,
            best_metric=options.best_metric,
        )
        if scores
        else None,
        pictures=PicturesHook(
            evaluations,
            gallery=Gallery(output, writers),
            count=options.pictures,
            refresh=boxes,
            **_draws(cfg, trainer, scores),
        )
        if main and options.pictures
        else None,
        probe=_build_probe(cfg, model, period("train.knn_probe.period", options.knn_probe.period)),
        writers=WritersHook(writers, period=options.log_period) if main else None,
        checkpoint=CheckpointHook(saves, checkpointer),
        export=ExportHook(saves, output, meta) if hasattr(model, "export") else None,
    )


def _draws(cfg: DictConfig, trainer: Trainer, scores: Evaluation | None) -> dict[str, Any]:
    """What of a model can be drawn."""
    count, training = cfg.train.pictures, trainer.loader.dataset
    drawn: dict[str, Any] = {}
    names: list[str] = []
    if scores is not None:
        names = list(catalog.class_names(cfg.dataloader.test.dataset.names))
        drawn["answers"] = AnswerPictures(
            loader=scores.loader,
            class_names=names,
            evaluator=scores.evaluator,
            training_mapper=training.mapper,
        )
    model = unwrap(trainer.model)
    if isinstance(model, BoxPretext | DETR):
        # A pretext's boxes are known for its training images.
        pretext = isinstance(model, BoxPretext)
        drawn["insight"] = InsightPictures(
            records=training.records if pretext or not scores else scores.loader.dataset.records,
            mapper=whole_image_mapper(cfg),
            class_names=names,
            count=count,
        )
    return drawn


def _build_refresh(cfg: DictConfig, trainer: Trainer, period: int) -> PriorRefreshHook | None:
    section = cfg.dataloader.get("refresh")
    if section is None:
        return None
    loader = build_test_loader(
        dataset=trainer.loader.dataset.records,
        mapper=instantiate(section.mapper),
        num_workers=section.num_workers,
    )
    parts = {name: cfg.model.get(name) for name in ("priors", "prior_update")}
    settings = {**to_plain(parts), "mapper": to_plain(section.mapper)}
    return PriorRefreshHook(
        period,
        folder=Path(cfg.train.output_dir) / "priors",
        loader=loader,
        start=cfg.train.refresh.start,
        settings=settings,
    )


def _build_probe(cfg: DictConfig, model: nn.Module, period: int) -> KnnProbeHook | None:
    if not period:
        return None
    options = to_plain(cfg.train.knn_probe)
    views = cfg.dataloader.train.mapper.get("size")
    size = options.pop("size") or (views if isinstance(views, int) else DEFAULT_SIZE)
    return KnnProbeHook(**{**options, "period": period}, size=size, model=model)
