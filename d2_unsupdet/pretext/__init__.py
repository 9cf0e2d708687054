"""How networks are pretrained, one file a method. Importing this registers them with Detectron2."""

from d2_unsupdet.availability import require_detectron2

require_detectron2()

from d2_unsupdet.pretext.contrastive import InfoNCE
from d2_unsupdet.pretext.dense_siam import DenseSiam
from d2_unsupdet.pretext.dense_siam_segmentor import DenseSiamSegmentor
from d2_unsupdet.pretext.detreg import DETReg
from d2_unsupdet.pretext.dupr import DUPR
from d2_unsupdet.pretext.join_det import JoinDet
from d2_unsupdet.pretext.moco_v2 import MoCoV2
from d2_unsupdet.pretext.siamese_detr import SiameseDETR
from d2_unsupdet.pretext.simsiam import SimSiam
from d2_unsupdet.pretext.up_detr import UPDETR

__all__ = [
    "DUPR",
    "UPDETR",
    "DETReg",
    "DenseSiam",
    "DenseSiamSegmentor",
    "InfoNCE",
    "JoinDet",
    "MoCoV2",
    "SiameseDETR",
    "SimSiam",
]
