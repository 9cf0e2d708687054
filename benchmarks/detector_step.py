#!/usr/bin/env python
"""One training step (forward, loss, backward): ours beside Hugging Face's Deformable DETR.

python benchmarks/detector_step.py               # two 480 x 640 images, some minutes
python benchmarks/detector_step.py --quick       # one image of 256 x 256
python benchmarks/detector_step.py --device cuda --height 800 --width 1216

Both sides have a ResNet-50 with frozen norms, stem and res2, 91 classes, losses on all layers, and
see the same images and boxes; steps alternate, the best of each side counts. Hugging Face has no
maintained DETA: the opponent of ours is its two-stage Deformable DETR with DETA's five levels, 900
queries and wider feed-forward blocks, which assigns one to one and suppresses nothing.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances
from torch import nn

from d2_unsupdet.detectors import transfer

MODELS = Path(__file__).resolve().parents[1] / "configs/common/models"
Step = Callable[[], torch.Tensor]


def ours(name: str, batch: list[dict], device: str) -> Step:
    cfg = LazyConfig.load(str(MODELS / f"{name}.py")).model
    cfg.heads.num_classes = 91
    model = instantiate(cfg).to(device).train()
    return stepping(model, lambda: torch.stack(list(model(batch).values())).sum())


def theirs(batch: list[dict], device: str, **settings: object) -> Step:
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

    config = DeformableDetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=ResNetConfig(out_features=["stage2", "stage3", "stage4"]),
        num_labels=91,
        auxiliary_loss=True,
        **settings,
    )
    model = DeformableDetrForObjectDetection(config).to(device).train()
    frozen = ("embedder", "encoder.stages.0")  # the stem and res2
    for name, parameter in model.named_parameters():
        if any(part in name for part in frozen):
            parameter.requires_grad_(False)
    mean = torch.tensor([123.675, 116.28, 103.53], device=device).view(-1, 1, 1)
    pixels = torch.stack([(sample["image"].to(device) - mean) / 58 for sample in batch])
    labels = []
    for sample in batch:
        height, width = sample["instances"].image_size
        boxes = sample["instances"].gt_boxes.tensor / torch.tensor([width, height] * 2)
        centre, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        labels.append(
            {
                "class_labels": sample["instances"].gt_classes.to(device),
                "boxes": torch.cat([centre, side], dim=1).to(device),
            }
        )
    return stepping(model, lambda: model(pixel_values=pixels, labels=labels).loss)


def stepping(model: nn.Module, loss: Callable[[], torch.Tensor]) -> Step:
    def step() -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        return value.detach()

    return step


def images(count: int, height: int, width: int) -> list[dict]:
    random = torch.Generator().manual_seed(0)
    batch = []
    for number in range(count):
        corner = torch.rand(8, 2, generator=random) * 0.6
        side = 0.05 + 0.3 * torch.rand(8, 2, generator=random)
        instances = Instances((height, width))
        boxes = torch.cat([corner, corner + side], dim=1) * torch.tensor([width, height] * 2)
        instances.gt_boxes = Boxes(boxes)
        instances.gt_classes = torch.randint(91, (8,), generator=random)
        image = torch.randint(0, 255, (3, height, width), dtype=torch.uint8, generator=random)
        batch.append({"image": image, "instances": instances, "file_name": f"image {number}"})
    return batch


def seconds(step: Step, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(name: str, pair: dict[str, Step], rounds: int, device: str) -> None:
    best = {side: [seconds(step, device)] for side, step in pair.items()}  # warm-up
    for times in best.values():
        times.clear()
    for _ in range(rounds):
        for side, step in pair.items():
            best[side].append(seconds(step, device))
    fastest = {side: min(times) for side, times in best.items()}
    own, other = fastest["ours"], fastest.get("transformers")
    beside = "" if other is None else f"{other:9.3f} s {own / other:8.2f}"
    print(f"{name:32} {own:7.3f} s {beside}", flush=True)


def waits(batch: list[dict]) -> None:
    """How often one step brings numbers to the host; on CUDA each is a wait for the device."""
    place = "d2_unsupdet.detectors.assigning.to_host"
    for name in ("deformable_detr", "deformable_detr_two_stage", "deta"):
        with mock.patch(place, side_effect=transfer.to_host) as sent:
            ours(name, batch, "cpu")()
        print(f"transfers to the host in a step of {name}: {sent.call_count}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small image, one round")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.quick:
        options.batch, options.height, options.width, options.rounds = 1, 256, 256, 1
    batch = images(options.batch, options.height, options.width)
    print(f"{options.batch} images of {options.height} x {options.width}, {options.device}")
    wide = {
        "two_stage": True,
        "with_box_refine": True,
        "num_feature_levels": 5,
        "num_queries": 900,
        "two_stage_num_proposals": 900,
        "encoder_ffn_dim": 2048,
        "decoder_ffn_dim": 2048,
        "dropout": 0.0,
    }
    try:
        import transformers
    except ImportError:
        print("transformers is not installed (pip install transformers): ours alone")
        opponents: dict[str, dict[str, object]] = {}
    else:
        print(f"transformers {transformers.__version__}")
        opponents = {"deformable_detr": {}, "deta": wide}
    print(f"{'':32} {'ours':>9} {'transformers':>13} {'ratio':>6}")
    for name in ("deformable_detr", "deta"):
        pair = {"ours": ours(name, batch, options.device)}
        if name in opponents:
            pair["transformers"] = theirs(batch, options.device, **opponents[name])
        compare(name, pair, options.rounds, options.device)
        del pair
    waits(images(1, 128, 128))


if __name__ == "__main__":
    main()
