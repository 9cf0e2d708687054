"""Keys that our architectures add to Detectron2's YAML configuration."""

from d2_unsupdet.availability import require_detectron2

require_detectron2()

from detectron2.config import CfgNode


def add_unsupdet_config(cfg: CfgNode) -> None:
    """Add this package's keys with their defaults; call it on `get_cfg()` before merging a file."""
    # MoCo v2 (arXiv:2003.04297); the backbone needs FREEZE_AT 0, NORM "BN", OUT_FEATURES ["res5"].
    cfg.MODEL.MOCO = CfgNode()
    cfg.MODEL.MOCO.DIM = 128
    cfg.MODEL.MOCO.QUEUE_SIZE = 65536
    cfg.MODEL.MOCO.MOMENTUM = 0.999
    cfg.MODEL.MOCO.TEMPERATURE = 0.2
    cfg.MODEL.MOCO.SHUFFLE_BN = True
