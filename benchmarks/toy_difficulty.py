"""How hard is the embedded data set? A small Faster R-CNN from scratch on 50 and on 2,000 images.

Wanted: AP50 under 0.35 with 50 images (labels are scarce, so pretraining has something to give)
and over 0.7 with 2,000 (the task can be learned). Plain loop, batch a function of the step; started
again, it continues: python benchmarks/toy_difficulty.py --images 2000 --steps 2500
"""

import argparse
import contextlib
import io
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator.rpn import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    StandardROIHeads,
)
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.events import EventStorage
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from d2_unsupdet.data.catalog import class_names, get_dataset
from d2_unsupdet.data.images import read_image
from d2_unsupdet.seeding import generator, seed_everything

BATCH = 16


def build_detector(classes: int) -> GeneralizedRCNN:
    """Faster R-CNN, one basic block a stage, FPN on strides 4 to 32 with 64 channels."""
    widths = (32, 64, 128, 192)
    stages = [
        [BasicBlock(before, after, stride=1 if k == 0 else 2, norm="BN")]
        for k, (before, after) in enumerate(zip((32, *widths), widths, strict=False))
    ]
    levels = ["res2", "res3", "res4", "res5"]
    resnet = ResNet(BasicStem(3, 32, norm="BN"), stages, out_features=levels, freeze_at=0)
    backbone = FPN(resnet, levels, 64)
    return GeneralizedRCNN(
        backbone=backbone,
        proposal_generator=_proposals(),
        roi_heads=_heads(classes),
        pixel_mean=[120.0] * 3,
        pixel_std=[60.0] * 3,
    )


def _proposals() -> RPN:
    scales = [2 ** (k / 3) for k in range(3)]
    anchors = DefaultAnchorGenerator(
        sizes=[[side * s for s in scales] for side in (8, 20, 44)],  # boxes have 4-77 pixels
        aspect_ratios=[[1.0]],
        strides=[8, 16, 32],
    )
    return RPN(
        in_features=["p3", "p4", "p5"],
        head=StandardRPNHead(in_channels=64, num_anchors=3),
        anchor_generator=anchors,
        anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=64,
        positive_fraction=0.5,
        pre_nms_topk=(200, 200),
        post_nms_topk=(60, 60),
    )


def _heads(classes: int) -> StandardROIHeads:
    shape = ShapeSpec(channels=64, height=7, width=7)
    head = FastRCNNConvFCHead(shape, conv_dims=[64, 64], fc_dims=[128])
    return StandardROIHeads(
        num_classes=classes,
        batch_size_per_image=32,
        positive_fraction=0.5,
        proposal_matcher=Matcher([0.5], [0, 1]),
        box_in_features=["p2", "p3"],
        # boxes under 64 pixels are read from stride 4, the others from stride 8
        box_pooler=ROIPooler(7, [1 / 4, 1 / 8], 2, "ROIAlignV2", canonical_box_size=128),
        box_head=head,
        box_predictor=FastRCNNOutputLayers(
            head.output_shape,
            box2box_transform=Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0)),
            num_classes=classes,
            test_score_thresh=0.02,
        ),
    )


class Images:
    """A whole split in memory, uint8 (N, 3, s, s), with its boxes."""

    def __init__(self, records: list[dict]) -> None:
        self.records = records
        pixels = np.stack([read_image(r["file_name"]) for r in records])
        self.pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        self.boxes = [
            np.array([BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS)
                      for a in r["annotations"]], np.float32).reshape(-1, 4)
            for r in records
        ]  # fmt: skip
        self.labels = [np.array([a["category_id"] for a in r["annotations"]]) for r in records]

    def sample(self, index: int, rng: np.random.Generator) -> dict:
        """An image under a random symmetry of the square, with shuffled and shifted channels."""
        image, boxes = self.pixels[index], self.boxes[index]
        size = image.shape[-1]
        if rng.random() < 0.5:
            image = image.flip(2)
            boxes = np.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], 1)
        for _ in range(rng.integers(4)):  # a quarter turn: (x, y) -> (y, size - x)
            image = image.rot90(1, (1, 2))
            boxes = np.stack([boxes[:, 1], size - boxes[:, 2], boxes[:, 3], size - boxes[:, 0]], 1)
        image = image[torch.from_numpy(rng.permutation(3))].float()
        gain, shift = rng.uniform(0.8, 1.2, 3), rng.uniform(-20, 20, 3)
        image = image * torch.tensor(gain).view(3, 1, 1) + torch.tensor(shift).view(3, 1, 1)
        target = Instances((size, size))
        target.gt_boxes = Boxes(torch.from_numpy(np.ascontiguousarray(boxes)))
        target.gt_classes = torch.from_numpy(self.labels[index])
        return {"image": image.clamp(0, 255).float(), "instances": target}


def train(model: GeneralizedRCNN, data: Images, options: argparse.Namespace, state: Path) -> None:
    """AdamW, warm-up 50 steps, cosine; the state is written every 200 steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=1e-4)
    first = 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    started = time.perf_counter()
    with EventStorage():
        for step in range(first, options.steps):
            cosine = 0.5 * (1 + math.cos(math.pi * step / options.steps))
            for group in optimizer.param_groups:
                group["lr"] = options.lr * min(1, (step + 1) / 50) * cosine
            rng = generator("difficulty", options.seed, step)
            seed_everything("difficulty", options.seed, step)  # the detector samples its boxes
            chosen = rng.choice(len(data.records), BATCH, replace=len(data.records) < BATCH)
            losses = model([data.sample(int(i), rng) for i in chosen])
            loss = sum(losses.values())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            if (step + 1) % 100 == 0:
                pace = (time.perf_counter() - started) / (step + 1 - first)
                print(f"step {step + 1}  loss {float(loss):.3f}  {pace:.2f} s/step", flush=True)
            if (step + 1) % 200 == 0 or step + 1 == options.steps:
                part = state.with_suffix(".part")
                content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save({**content, "step": step + 1}, part)
                part.rename(state)


@torch.no_grad()
def evaluate(model: GeneralizedRCNN, data: Images, dataset: str) -> dict[str, float]:
    """COCO's AP, AP50, and AP of small, medium and large parts by area."""
    model.eval()
    meta = MetadataCatalog.get(dataset)
    category = {v: k for k, v in meta.thing_dataset_id_to_contiguous_id.items()}
    results = []
    for record, image in zip(data.records, data.pixels, strict=True):
        found = model([{"image": image.float()}])[0]["instances"]
        boxes = BoxMode.convert(found.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
        results += [
            {"image_id": record["image_id"], "category_id": category[c], "bbox": b, "score": s}
            for b, s, c in zip(boxes.tolist(), found.scores.tolist(), found.pred_classes.tolist(),
                               strict=True)
        ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(meta.json_file)
        scores = COCOeval(truth, truth.loadRes(results), "bbox")
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
    by_class = scores.eval["precision"][0, :, :, 0, -1].mean(0)
    names = class_names(dataset)
    return {
        "AP": round(float(scores.stats[0]), 4),
        "AP50": round(float(scores.stats[1]), 4),
        **{f"AP50-{n}": round(float(v), 3) for n, v in zip(names, by_class, strict=True)},
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--options", default="", help="of the data set, such as :level=hard")
    parser.add_argument("--output", type=Path, default=Path("output/toy_difficulty"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    stem = f"{options.images}-{options.steps}-{options.lr:g}-{options.seed}{options.options}"
    seed_everything("difficulty", options.seed)
    records = get_dataset(
        f"toy_train{options.options}", subset=f"{options.images}@seed{options.seed}"
    )
    model = build_detector(len(class_names("toy_train"))).train()
    count = sum(p.numel() for p in model.parameters())
    print(f"{len(records)} images, {count / 1e6:.2f} M parameters", flush=True)
    train(model, Images(records), options, options.output / f"{stem}.pth")
    validation = f"toy_val{options.options}"
    scores = evaluate(model, Images(get_dataset(validation)), validation)
    (options.output / f"{stem}.json").write_text(json.dumps(scores, indent=1))
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
