"""Detectron2's detectors, small and off their first values, so that they find something."""

from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from torch import nn

from d2_unsupdet.engine.sync_batch_norm import resolve_sync_bn

MODELS = Path(__file__).parents[2] / "configs/common/models"
NAMES = ("faster_rcnn_c4", "mask_rcnn_c4", "mask_rcnn_fpn", "retinanet")


def small_rcnn(name: str, *, seed: int = 0) -> nn.Module:
    """On a ResNet-18, with few proposals and 3 classes."""
    cfg: Any = LazyConfig.load(str(MODELS / f"{name}.py")).model
    backbone = cfg.backbone if "stages" in cfg.backbone else cfg.backbone.bottom_up
    backbone.stages.depth = 18
    (cfg.roi_heads if "roi_heads" in cfg else cfg).num_classes = 3
    torch.manual_seed(seed)
    model = resolve_sync_bn(instantiate(cfg)).eval()
    with torch.no_grad():
        for part, parameter in model.named_parameters():
            if "rpn_head" in part or "box_predictor" in part or part.startswith("head."):
                parameter.add_(0.03 * torch.randn_like(parameter))
    if hasattr(model, "proposal_generator"):
        generator: Any = model.proposal_generator
        generator.pre_nms_topk, generator.post_nms_topk = {False: 200}, {False: 60}
    return model
