"""A ResNet-18 and a batch small enough for two CPU cores."""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.modeling.backbone import BasicStem, ResNet
from torch import Tensor

from d2_unsupdet.data.views import RandomCrop
from d2_unsupdet.pretext import DUPR, InfoNCE, MoCoV2

LEVELS = ("res2", "res3", "res4", "res5")


def tiny_resnet(norm: str = "BN", freeze_at: int = 0, levels: Sequence[str] = LEVELS) -> ResNet:
    return ResNet(
        BasicStem(norm=norm),
        ResNet.make_default_stages(18, norm=norm),
        out_features=list(levels),
        freeze_at=freeze_at,
    )


def tiny_moco(seed: int = 0, **changes) -> MoCoV2:
    torch.manual_seed(seed)
    settings = {"dim": 16, "queue_size": 24, "momentum": 0.9, "temperature": 0.2}
    return MoCoV2(backbone=tiny_resnet(), **{**settings, **changes})


def tiny_dupr(seed: int = 0, **changes) -> DUPR:
    """Patches of 4x4 cells on res4 and 2x2 on res5, whose maps are 4x4 and 2x2 at 64 pixels."""
    torch.manual_seed(seed)
    settings = {
        "dim": 16,
        "queue_size": 24,
        "patch_queue_size": 40,
        "patch_sizes": (16, 8, 4, 2),
        "patch_keys": 3,
        "patch_loss": InfoNCE(temperature=0.2, chunk=7),
        "momentum": 0.9,
    }
    return DUPR(backbone=tiny_resnet(), **{**settings, **changes})


def paired_batch(size: int, seed: int = 0, side: int = 32) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    views = torch.randint(0, 256, (size, 2, 3, side, side), generator=generator, dtype=torch.uint8)
    rng, law = np.random.default_rng(seed), RandomCrop(size=side)
    batch = []
    for i, view in enumerate(views):
        pair = law.draw_pair(rng, 200, 150, min_side=side / 8, tries=50)
        crops = pair.first, pair.second
        batch.append(
            {
                "views": view,
                "image_id": i,
                "overlap": torch.from_numpy(pair.overlap),
                "flipped": torch.tensor([crop.flipped for crop in crops]),
                "rectangles": torch.tensor([crop.rectangle for crop in crops]).float(),
                "valid": pair.valid,
            }
        )
    return batch


def parameters(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])
