"""What is finetuned. Importing this registers our heads and architectures with Detectron2."""

from d2_unsupdet.availability import require_detectron2

require_detectron2()

from d2_unsupdet.detectors.assignment import OverlapAssigner
from d2_unsupdet.detectors.backbone import DetrResNet
from d2_unsupdet.detectors.classification import FocalLoss, SoftmaxLoss
from d2_unsupdet.detectors.criterion import Criterion
from d2_unsupdet.detectors.decoder import ConditionalDecoder, DeformableDecoder, DenseDecoder
from d2_unsupdet.detectors.deformable_attention import DeformableAttention
from d2_unsupdet.detectors.denoising import Denoising
from d2_unsupdet.detectors.detr import (
    DETA,
    DETR,
    ConditionalDETR,
    DABDeformableDETR,
    DeformableDETR,
    DNDABDeformableDETR,
)
from d2_unsupdet.detectors.encoder import DeformableEncoder, DenseEncoder
from d2_unsupdet.detectors.fcn import DilatedFCNHead
from d2_unsupdet.detectors.federated import FederatedClasses
from d2_unsupdet.detectors.heads import Heads
from d2_unsupdet.detectors.matching import HungarianAssigner
from d2_unsupdet.detectors.neck import Neck
from d2_unsupdet.detectors.position import LearnedPosition, SinePosition
from d2_unsupdet.detectors.postprocess import BestClass, SuppressedPairs, TopPairs
from d2_unsupdet.detectors.proposals import Proposals, SpreadTokens, TopTokens
from d2_unsupdet.detectors.queries import LearnedAnchors, LearnedQueries, ProposalQueries
from d2_unsupdet.detectors.rcnn import Res5ROIHeadsExtraNorm

__all__ = [
    "DETA",
    "DETR",
    "BestClass",
    "ConditionalDETR",
    "ConditionalDecoder",
    "Criterion",
    "DABDeformableDETR",
    "DNDABDeformableDETR",
    "DeformableAttention",
    "DeformableDETR",
    "DeformableDecoder",
    "DeformableEncoder",
    "Denoising",
    "DenseDecoder",
    "DenseEncoder",
    "DetrResNet",
    "DilatedFCNHead",
    "FederatedClasses",
    "FocalLoss",
    "Heads",
    "HungarianAssigner",
    "LearnedAnchors",
    "LearnedPosition",
    "LearnedQueries",
    "Neck",
    "OverlapAssigner",
    "ProposalQueries",
    "Proposals",
    "Res5ROIHeadsExtraNorm",
    "SinePosition",
    "SoftmaxLoss",
    "SpreadTokens",
    "SuppressedPairs",
    "TopPairs",
    "TopTokens",
]
