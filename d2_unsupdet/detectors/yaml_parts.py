"""The parts of the DETR family from Detectron2's YAML: what configs/common/models says in Python.

They are made in the order of those configs, so that one seed gives the same weights.
"""

from types import SimpleNamespace
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn

from d2_unsupdet.detectors.assigning import Assigner
from d2_unsupdet.detectors.assignment import OverlapAssigner
from d2_unsupdet.detectors.classification import FocalLoss, SoftmaxLoss
from d2_unsupdet.detectors.criterion import Criterion
from d2_unsupdet.detectors.decoder import (
    ConditionalDecoder,
    Decoder,
    DeformableDecoder,
    DenseDecoder,
)
from d2_unsupdet.detectors.denoising import Denoising
from d2_unsupdet.detectors.encoder import DeformableEncoder, DenseEncoder, Encoder
from d2_unsupdet.detectors.heads import Heads
from d2_unsupdet.detectors.matching import HungarianAssigner
from d2_unsupdet.detectors.neck import Neck
from d2_unsupdet.detectors.position import LearnedPosition, SinePosition
from d2_unsupdet.detectors.postprocess import BestClass, SuppressedPairs, TopPairs
from d2_unsupdet.detectors.proposals import Proposals, SpreadTokens, TopTokens
from d2_unsupdet.detectors.queries import LearnedAnchors, LearnedQueries, ProposalQueries
from d2_unsupdet.detectors.yaml_settings import settings
from d2_unsupdet.errors import UserError


def parts_of(
    cfg: CfgNode, name: str, *, objects: bool = False, softmax: bool = False
) -> dict[str, Any]:
    """Constructor arguments of architecture `name` from `cfg.MODEL.DETR` and Detectron2's keys.

    Args:
        objects: one class, as pretexts have it, with their class weight and cost.
        softmax: of that class against "no object"; otherwise a sigmoid.
    """
    s = settings(cfg, name)
    s.softmax = s.background = name == "DETR"
    if objects:
        s.NUM_CLASSES, s.background, s.NO_OBJECT_WEIGHT = 1, softmax, 0.1
        s.CLASS_WEIGHT = s.CLASS_COST = 1.0 if softmax else 2.0
    s.conditional = name == "ConditionalDETR"
    s.deformable = not s.softmax and not s.conditional
    s.anchors = name in ("DABDeformableDETR", "DNDABDeformableDETR")
    s.overlap = name == "DETA"
    s.two_stage = s.overlap or getattr(s, "TWO_STAGE", False)
    s.eps = 1e-3 if s.anchors else 1e-5  # of the inverse sigmoid
    backbone = build_backbone(cfg)
    return {
        "backbone": backbone,
        "in_features": list(s.IN_FEATURES),
        "neck": _neck(s, backbone.output_shape()),
        "position": _position(s),
        "encoder": _encoder(s),
        "query_source": _query_source(s),
        "decoder": _decoder(s),
        "heads": _heads(s),
        "criterion": _criterion(s),
        "postprocess": _postprocess(s, cfg.TEST.DETECTIONS_PER_IMAGE),
        "proposals": _proposals(s) if s.two_stage else None,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "input_format": cfg.INPUT.FORMAT,
        "size_divisibility": s.SIZE_DIVISIBILITY or backbone.size_divisibility,
    }


def _neck(s: SimpleNamespace, shapes: dict[str, ShapeSpec]) -> Neck:
    missing = [name for name in s.IN_FEATURES if name not in shapes]
    if missing:
        raise UserError(
            f"MODEL.DETR.IN_FEATURES={list(s.IN_FEATURES)} asks for {', '.join(missing)}, the "
            f"backbone gives {', '.join(shapes)}: set MODEL.RESNETS.OUT_FEATURES to the same."
        )
    channels = [shapes[name].channels for name in s.IN_FEATURES]
    levels = s.LEVELS if s.deformable else None
    return Neck(in_channels=channels, dim=s.HIDDEN_DIM, levels=levels, norm=s.deformable)


def _position(s: SimpleNamespace) -> nn.Module:
    if s.POSITION_EMBEDDING == "sine":
        return SinePosition(dim=s.HIDDEN_DIM, half_cell=s.deformable)
    if s.POSITION_EMBEDDING == "learned":
        return LearnedPosition(dim=s.HIDDEN_DIM)
    raise UserError(
        f"MODEL.DETR.POSITION_EMBEDDING='{s.POSITION_EMBEDDING}' is not one of sine, learned."
    )


def _transformer(s: SimpleNamespace) -> dict[str, Any]:
    """What encoder and decoder have in common."""
    shared = {
        "dim": s.HIDDEN_DIM,
        "heads": s.NHEADS,
        "ffn_dim": s.DIM_FEEDFORWARD,
        "dropout": s.DROPOUT,
    }
    return shared | ({"levels": s.LEVELS, "points": s.POINTS} if s.deformable else {})


def _encoder(s: SimpleNamespace) -> Encoder:
    if s.deformable:
        return DeformableEncoder(num_layers=s.ENC_LAYERS, **_transformer(s))
    pre_norm = s.softmax and s.PRE_NORM
    return DenseEncoder(num_layers=s.ENC_LAYERS, pre_norm=pre_norm, **_transformer(s))


def _decoder(s: SimpleNamespace) -> Decoder:
    shared = {"num_layers": s.DEC_LAYERS, **_transformer(s)}
    if s.softmax:
        return DenseDecoder(pre_norm=s.PRE_NORM, **shared)
    if s.conditional:
        return ConditionalDecoder(**shared)
    anchored = {"anchor_position": True, "padded_position": s.PADDED_POSITION} if s.anchors else {}
    return DeformableDecoder(refine=s.REFINE, **anchored, **shared)


def _query_source(s: SimpleNamespace) -> LearnedQueries | LearnedAnchors | ProposalQueries:
    if s.two_stage:
        return ProposalQueries(dim=s.HIDDEN_DIM, token_content=s.overlap)
    if s.anchors:
        denoising = _denoising(s) if hasattr(s, "DN_GROUPS") else None
        return LearnedAnchors(
            num_queries=s.NUM_OBJECT_QUERIES, dim=s.HIDDEN_DIM, denoising=denoising
        )
    return LearnedQueries(
        num_queries=s.NUM_OBJECT_QUERIES,
        dim=s.HIDDEN_DIM,
        content=s.deformable,
        reference="none" if s.softmax else "mlp" if s.conditional else "point",
    )


def _denoising(s: SimpleNamespace) -> Denoising:
    return Denoising(
        num_classes=s.NUM_CLASSES,
        dim=s.HIDDEN_DIM,
        groups=s.DN_GROUPS,
        label_noise=s.DN_LABEL_NOISE,
        box_noise=s.DN_BOX_NOISE,
        eps=s.eps,
    )


def _proposals(s: SimpleNamespace) -> Proposals:
    select = (
        SpreadTokens(candidates=s.PROPOSAL_TOPK, threshold=s.PROPOSAL_NMS_THRESH)
        if s.overlap
        else TopTokens()
    )
    return Proposals(
        num_proposals=s.NUM_OBJECT_QUERIES,
        dim=s.HIDDEN_DIM,
        score_channels=s.SCORE_CHANNELS,
        anchor_size=s.ANCHOR_SIZE,
        anchor_growth=s.ANCHOR_GROWTH,
        select=select,
        ignore_padding=s.IGNORE_PADDING,
    )


def _heads(s: SimpleNamespace) -> Heads:
    return Heads(
        num_classes=s.NUM_CLASSES,
        dim=s.HIDDEN_DIM,
        num_layers=s.DEC_LAYERS,
        shared=not (s.deformable and s.REFINE),
        background=s.background,
        prior=None if s.background else 0.01,
        box_start="default" if s.softmax else "zero",
        size_bias=-2.0 if s.deformable and not s.two_stage else 0.0,
        eps=s.eps,
    )


def _criterion(s: SimpleNamespace) -> Criterion:
    return Criterion(
        classification=SoftmaxLoss(no_object=s.NO_OBJECT_WEIGHT) if s.background else FocalLoss(),
        assigner=_assigner(s, "ASSIGNER"),
        encoder_assigner=_assigner(s, "ENC_ASSIGNER") if s.overlap else None,
        weights={"ce": s.CLASS_WEIGHT, "bbox": s.L1_WEIGHT, "giou": s.GIOU_WEIGHT},
        auxiliary=s.DEEP_SUPERVISION,
        ignore_padding=s.IGNORE_PADDING if s.two_stage else True,
    )


def _assigner(s: SimpleNamespace, key: str) -> Assigner:
    kind = getattr(s, key, "hungarian")
    if kind == "hungarian":
        return HungarianAssigner(
            classification="softmax" if s.background else "focal",
            class_cost=s.CLASS_COST,
            box_cost=s.L1_COST,
            giou_cost=s.GIOU_COST,
        )
    if kind != "overlap":
        raise UserError(f"MODEL.DETR.{key}='{kind}' is not one of overlap, hungarian.")
    shared = {
        "per_object": s.QUERIES_PER_OBJECT,
        "balance": s.BALANCE,
        "unique": s.UNIQUE,
        "zero_overlap": s.ZERO_OVERLAP,
    }
    if key == "ASSIGNER":
        return OverlapAssigner(
            positive=s.IOU_THRESHOLD, positive_fraction=s.POSITIVE_FRACTION, **shared
        )
    negative, positive = s.ENC_IOU_THRESHOLDS
    return OverlapAssigner(
        positive=positive,
        negative=negative,
        samples=s.ENC_BATCH_SIZE,
        positive_fraction=s.ENC_POSITIVE_FRACTION,
        **shared,
    )


def _postprocess(s: SimpleNamespace, detections: int) -> BestClass | TopPairs | SuppressedPairs:
    if s.overlap:
        return SuppressedPairs(
            candidates=s.TOPK_CANDIDATES_TEST,
            threshold=s.NMS_THRESH_TEST,
            detections=detections,
            softmax=s.background,
        )
    return BestClass() if s.background else TopPairs(detections=detections)
