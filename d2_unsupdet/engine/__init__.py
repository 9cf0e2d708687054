"""The training loop's assembly: config, trainer, hooks, launch. Import from the files by name."""

from d2_unsupdet.availability import require_detectron2

require_detectron2()
