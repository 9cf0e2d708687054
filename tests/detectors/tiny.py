"""The nine detectors of configs/common/models, small enough for tests."""

from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from d2_unsupdet.detectors import DETR, DetrResNet

MODELS = Path(__file__).parents[2] / "configs/common/models"
NAMES = (
    "detr",
    "conditional_detr",
    "deformable_detr",
    "deformable_detr_single_scale",
    "deformable_detr_refine",
    "deformable_detr_two_stage",
    "dab_deformable_detr",
    "dn_dab_deformable_detr",
    "deta",
)
WIDTHS = {"res2": 8, "res3": 16, "res4": 24, "res5": 32}


def tiny_config(name: str, *, classes: int = 5, queries: int = 12, **overrides: Any) -> DictConfig:
    """A detector of two layers and 64 channels on a ResNet of one block a stage."""
    model = LazyConfig.load(str(MODELS / f"{name}.py")).model
    outputs = list(model.backbone.out_features)
    model.backbone = L(DetrResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=8, norm="FrozenBN"),
        stages=[
            L(ResNet.make_stage)(
                block_class=BasicBlock,
                num_blocks=1,
                in_channels=8 if stage == "res2" else WIDTHS[f"res{int(stage[-1]) - 1}"],
                out_channels=width,
                stride_per_block=[1 if stage == "res2" else 2],
                norm="FrozenBN",
            )
            for stage, width in WIDTHS.items()
        ],
        out_features=outputs,
        freeze_at=2,
        mask_padding=False,
    )
    model.neck.in_channels = [WIDTHS[stage] for stage in outputs]
    model.encoder.update(dim=64, heads=4, num_layers=2, ffn_dim=64, dropout=0.0)
    model.decoder.num_layers = 2
    model.heads.num_classes = classes
    if "proposals" in model:
        model.proposals.num_proposals = queries
    else:
        model.query_source.num_queries = queries
    for key, value in overrides.items():
        OmegaConf.update(model, key.replace("__", "."), value, force_add=True)
    return model


def tiny_detr(name: str, *, seed: int = 0, **options: Any) -> DETR:
    """The model, moved off its zero initialisations so that every path carries a signal."""
    torch.manual_seed(seed)
    model = instantiate(tiny_config(name, **options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def sample(
    height: int, width: int, objects: int, *, seed: int = 0, classes: int = 5, name: str = "image"
) -> dict[str, Any]:
    """One image of Detectron2's batch with that many random objects."""
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(objects, 2, generator=random) * 0.5
    side = 0.1 + torch.rand(objects, 2, generator=random) * 0.4
    scale = torch.tensor([width, height] * 2).float()
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.cat([corner, corner + side], dim=1) * scale)
    instances.gt_classes = torch.randint(classes, (objects,), generator=random)
    image = torch.randint(0, 255, (3, height, width), dtype=torch.uint8, generator=random)
    return {
        "image": image,
        "instances": instances,
        "height": height,
        "width": width,
        "file_name": name,
    }


def batch_of(*objects: int) -> list[dict[str, Any]]:
    """Images of different sizes with these numbers of objects."""
    sizes = [(96, 128), (80, 72), (128, 64), (64, 64)]
    return [sample(*sizes[i % 4], n, seed=i, name=f"image {i}.jpg") for i, n in enumerate(objects)]


def outputs(model: DETR, batch: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """Logits and boxes of all layers."""
    encoded = model.encode(model.features(model.preprocess(batch)))
    decoded = model.decode(encoded, model.queries(encoded))
    return decoded.logits, decoded.boxes
