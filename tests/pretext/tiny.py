"""A ResNet-18 and a batch small enough for two CPU cores."""

import torch
from detectron2.modeling.backbone import BasicStem, ResNet
from torch import Tensor

from d2_unsupdet.pretext import MoCoV2


def tiny_resnet(norm: str = "BN", freeze_at: int = 0) -> ResNet:
    return ResNet(
        BasicStem(norm=norm),
        ResNet.make_default_stages(18, norm=norm),
        out_features=["res5"],
        freeze_at=freeze_at,
    )


def tiny_moco(seed: int = 0, **changes) -> MoCoV2:
    torch.manual_seed(seed)
    settings = {"dim": 16, "queue_size": 24, "momentum": 0.9, "temperature": 0.2}
    return MoCoV2(backbone=tiny_resnet(), **{**settings, **changes})


def paired_batch(size: int, seed: int = 0, side: int = 32) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    views = torch.randint(0, 256, (size, 2, 3, side, side), generator=generator, dtype=torch.uint8)
    return [{"views": v, "image_id": i} for i, v in enumerate(views)]


def parameters(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])
