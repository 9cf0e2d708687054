"""The four pretexts of whole detectors on the nine tiny detectors, and batches for them."""

from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf

from d2_unsupdet.pretext.box_pretext import BoxPretext
from tests.detectors.tiny import MODELS, tiny_config

METHODS = ("up_detr", "detreg", "siamese_detr", "join_det")
SIZES = ((96, 128), (80, 72), (128, 64), (64, 64))
REGIONS = 3


def tiny_pretext(
    method: str, detector: str, *, seed: int = 0, freeze_at: int = 5, **overrides: Any
) -> BoxPretext:
    """Dots in the names of overrides are `__`; weights are moved off their zeros."""
    build = LazyConfig.load(str(MODELS / f"{method}.py"), method)
    config = build(tiny_config(detector, classes=1), freeze_at=freeze_at)
    for key, value in {"embedding_weight": 1.0, **overrides}.items():
        if "__" in key or key in config:
            OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
    torch.manual_seed(seed)
    model = instantiate(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.begin()
    return model


def boxes(count: int, height: int, width: int, random: torch.Generator) -> torch.Tensor:
    """XYXY in pixels."""
    corner = torch.rand(count, 2, generator=random) * 0.5
    side = 0.2 + torch.rand(count, 2, generator=random) * 0.3
    return torch.cat([corner, corner + side], dim=1) * torch.tensor([width, height] * 2)


def pixels(*shape: int, random: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 255, shape, dtype=torch.uint8, generator=random)


def batch_for(method: str, images: int = 2, *, seed: int = 0, regions: int = REGIONS) -> list[dict]:
    """Samples as the method's mapper makes them; image i is the same in every batch."""
    made = []
    for i in range(images):
        random = torch.Generator().manual_seed(100 * seed + i)
        height, width = SIZES[i % 4]
        sample: dict[str, Any] = {"file_name": f"image {i}.jpg", "image_id": i}
        if method == "siamese_detr":
            sample["views"] = pixels(2, 3, height, width, random=random)
            found = [boxes(regions, height, width, random) for _ in range(2)]
            sample["priors"] = torch.stack(found)
            sample["crops"] = pixels(2, regions, 3, 32, 32, random=random)
        else:
            sample["image"] = pixels(3, height, width, random=random)
            count = regions if method == "up_detr" else regions + i % 2
            sample["priors"] = boxes(count, height, width, random)
            sample["prior_scores"] = torch.ones(count)
            sample["crops"] = pixels(count, 3, 32, 32, random=random)
        made.append(sample)
    return made
