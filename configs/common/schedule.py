# Rates as functions of progress in [0, 1]: a shorter `train.max_iter` rescales all of them.
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import (
    ConstantParamScheduler,
    CosineParamScheduler,
    MultiStepParamScheduler,
)


def multistep(drops, total, warmup=0, warmup_factor=0.001, gamma=0.1):
    """Rate times gamma at each drop; drops, total and warmup share one unit, whichever it is."""
    steps = L(MultiStepParamScheduler)(
        values=[gamma**i for i in range(len(drops) + 1)], milestones=list(drops), num_updates=total
    )
    return _warmed(steps, warmup / total, warmup_factor)


def cosine(warmup=0.0, warmup_factor=0.001):
    """From 1 to 0 over the run; warmup is its share of the run."""
    return _warmed(L(CosineParamScheduler)(start_value=1.0, end_value=0.0), warmup, warmup_factor)


def constant(warmup=0.0, warmup_factor=0.001):
    return _warmed(L(ConstantParamScheduler)(value=1.0), warmup, warmup_factor)


def _warmed(scheduler, share, factor):
    if not share:
        return scheduler
    return L(WarmupParamScheduler)(
        scheduler=scheduler, warmup_length=share, warmup_factor=factor, warmup_method="linear"
    )
