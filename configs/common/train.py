# Every key of a run's `train` section, with its meaning, stands in d2_unsupdet/engine/defaults.py.
from copy import deepcopy

from d2_unsupdet.engine.defaults import TRAIN

train = deepcopy(TRAIN)
