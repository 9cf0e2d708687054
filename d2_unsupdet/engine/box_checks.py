"""Whether the boxes that a detector is pretrained on are there and fit it, before any work."""

from collections.abc import Sequence

from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf

from d2_unsupdet.detectors.queries import fitting_counts
from d2_unsupdet.engine.config import is_box_pretext, target_of
from d2_unsupdet.errors import UserError
from d2_unsupdet.pretext import DETReg, SiameseDETR
from d2_unsupdet.pretext.region_pretext import RegionPretext
from d2_unsupdet.priors import StoredBoxes

MAPPER = "dataloader.train.mapper"
QUERIES = "model.detector.query_source.num_queries"


def check_boxes(cfg: DictConfig, *, resume: bool, processes: int) -> None:
    """What config and disk tell without reading the data set."""
    if not resume:  # a run that goes on knows its boxes by their hash
        for source in _stored(cfg):
            source.generation  # noqa: B018  # a look is what opens it
    if is_box_pretext(cfg.model):
        method = target_of(cfg.model)
        _check_crops(cfg, method)
        if issubclass(method, RegionPretext):
            _check_regions(cfg)
        if issubclass(method, SiameseDETR):
            _check_batch(cfg, processes)


def check_images(cfg: DictConfig, records: Sequence[dict]) -> None:
    """Whether the stores hold the images that are read by a run that begins."""
    for source in _stored(cfg):
        source.check(records)


def _stored(cfg: DictConfig) -> list[StoredBoxes]:
    """The stores that must be there already; one that is refreshed is the run's own."""
    if cfg.dataloader.get("refresh") is not None:
        start = cfg.train.refresh.start
        return [StoredBoxes(path=start)] if start else []
    source = OmegaConf.select(cfg, f"{MAPPER}.source")
    stored = isinstance(source, DictConfig) and target_of(source) is StoredBoxes
    return [instantiate(source)] if stored else []


def _check_crops(cfg: DictConfig, method: type) -> None:
    if OmegaConf.select(cfg, f"{MAPPER}.crop_size") != 0:
        return
    if not issubclass(method, DETReg):
        fix = "leave the key out"
    elif cfg.model.get("embedding_weight", 1.0):
        fix = "set model.embedding_weight=0 too, or leave the key out"
    else:
        return
    raise UserError(
        f"{MAPPER}.crop_size=0 leaves out the pictures of boxes that {method.__name__} learns to "
        f"describe: {fix}."
    )


def _check_regions(cfg: DictConfig) -> None:
    """Of queries that are learned; a two-stage detector leaves some of its proposals out."""
    queries = OmegaConf.select(cfg, QUERIES)
    for name in ("exactly", "boxes.count"):
        regions = OmegaConf.select(cfg, f"{MAPPER}.{name}")
        if queries and regions and queries % regions:
            raise UserError(
                f"{QUERIES}={queries} cannot be shared equally by {MAPPER}.{name}={regions} "
                f"regions: the nearest number of queries that can is "
                f"{fitting_counts(queries, regions)}."
            )


def _check_batch(cfg: DictConfig, processes: int) -> None:
    parts = processes * cfg.train.accumulate
    together = cfg.train.sync_bn and processes > 1
    if cfg.dataloader.train.total_batch_size > parts or together:
        return
    if cfg.model.get("global_weight", 1.0):
        raise UserError(
            "A batch norm cannot tell one image a process apart from itself: set "
            f"dataloader.train.total_batch_size={2 * parts} or more, train.sync_bn=true for "
            "several processes, or leave global discrimination out with model.global_weight=0."
        )
