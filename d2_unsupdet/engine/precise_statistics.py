"""Batch norm's statistics as true averages over training batches, before a model is scored.

"Rethinking 'Batch' in BatchNorm", section 3. A pass over thousands of images: it says so before.
"""

import logging
from collections.abc import Iterator

from detectron2.utils import comm
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import nn

from d2_unsupdet.data.loader import TrainLoader
from d2_unsupdet.engine.model_state import batches_uncounted
from d2_unsupdet.engine.progress import Progress

logger = logging.getLogger(__name__)


def update_statistics(model: nn.Module, loader: TrainLoader, steps: int) -> None:
    """Average over the batches of the first steps; of layers in training mode alone.

    Args:
        model: whose layers are in the modes of training.
        loader: of the training set.
        steps: how many batches.
    """
    if not get_bn_modules(model):
        return
    images = steps * loader.plan.batch
    logger.info(
        "before the evaluation %s images (%d training batches) pass through the model, which "
        "averages the statistics of batch norm; train.precise_bn.num_iter is the number of "
        "batches, train.precise_bn.enabled=false does without",
        f"{images:,}",
        steps,
    )
    progress = Progress("statistics of batch norm", images // comm.get_world_size())

    def counted() -> Iterator[list[dict]]:
        for batch in loader.from_step(0):
            yield batch
            for _ in batch:
                progress.step()

    with batches_uncounted(model):
        update_bn_stats(model, counted(), steps)
