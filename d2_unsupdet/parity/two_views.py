"""Siamese DETR beside golden files: two views, each region decoded in the other one.

The original's deformable transformer takes the regions of the batch's first image for every image.
Ours does not: with several images only the first is compared, and once more all of them with the
original's regions put in place, so that losses and gradients of a batch are compared too.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2_unsupdet.detectors.structures import Target
from d2_unsupdet.parity.build import CONFIGS
from d2_unsupdet.parity.compare import Aside, Row, compare, pairs
from d2_unsupdet.parity.detectors import compare_gradients
from d2_unsupdet.parity.golden import Golden
from d2_unsupdet.parity.losses import compare_losses
from d2_unsupdet.parity.pretexts import Pass, build_pretext, run_losses, unweighted
from d2_unsupdet.parity.rule import official_state

# Batch norm over three images divides small differences of their means by as little: the golden
# numbers are 5e-4 away from those in float64, ours 3e-4. A bias before it has no gradient but that.
_FEW = 1e-3
_BEFORE_NORM = re.compile(r"enc_head\.0\.(projector\.mlp\.[036]|predictor\.mlp\.0)\.bias")


@dataclass(frozen=True)
class Way:
    """One way of running: `eval`, `train` or `single`, and how many images of the batch count."""

    name: str
    golden: Golden
    model: Any
    batch: list[dict[str, Any]]
    run: Pass
    images: int

    def rows(self, direction: int) -> slice:
        """Direction 1 is decoded in the second view, whose images stand behind the first's."""
        start = len(self.batch) if direction == 1 else 0
        return slice(start, start + self.images)


def check_siamese(golden: Golden, configs: Path = CONFIGS) -> Iterator[Row | Aside]:
    """All arrays of a Siamese DETR file."""
    weights = golden.manifest["weight_dict"]
    model, names = build_pretext(
        golden,
        configs,
        jitter=0.0,
        aligned=False,
        ignore_padding=False,
        feature_weight=weights["loss_feature"],
        global_weight=weights["loss_enc_global_contra"],
    )
    model.detector.criterion.classification.no_object = _no_object(golden)
    batch = _batch(golden)
    one = _one_image_for_all(golden)
    for name in ("eval", "train", "single"):  # training moves the batch norms that `single` reads
        if not any(array.startswith(f"{name}.") for array in golden.arrays):
            continue
        model.train(name == "train")
        part = batch[:1] if name == "single" else batch
        if one and name == "eval":  # ours as it is
            way = Way(name, golden, model, part, run_losses(model, part), images=1)
            yield from _directions(way)
        hook = model.detector.query_source.register_forward_pre_hook(_first_regions)
        if not one:
            hook.remove()
        way = Way(name, golden, model, part, run_losses(model, part), images=len(part))
        hook.remove()
        yield from _directions(way)
        yield from _global(way)
        yield from _losses(way, names)


def _no_object(golden: Golden) -> float:
    """The classes' weights are a buffer there, so the rule filled it; class 0 of 3 is unused."""
    weight = official_state(golden.manifest)["pred_head.criterion.empty_weight"]
    return float(weight[2] / weight[1])


def _one_image_for_all(golden: Golden) -> bool:
    return "transformer.tgt_embed.weight" in golden.manifest["state_dict"]


def _first_regions(part: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The regions of each view's first image for all its images."""
    encoded, regions, *rest = inputs
    halves = [half[:1].expand(len(half), -1, -1) for half in regions.values.chunk(2)]
    return encoded, replace(regions, values=torch.cat(halves)), *rest


def _batch(golden: Golden) -> list[dict[str, Any]]:
    inputs = golden.manifest["inputs"]
    with np.load(golden.path.with_name(inputs["file"])) as file:
        stored = {name: torch.from_numpy(np.array(file[name])) for name in file}
    count = sum(name.startswith("view1.") for name in stored)
    return [
        {
            "views": torch.stack([stored[f"view1.img{i}"], stored[f"view2.img{i}"]]),
            "priors": stored[f"boxes.img{i}"],
            "crops": stored["crops"][i],
            "file_name": f"img{i}",
        }
        for i in range(count)
    ]


def _directions(way: Way) -> Iterator[Row]:
    a, decoded = way.golden.arrays, way.run.decoded
    several = way.images < len(way.batch)
    features = way.model.feature_head(decoded.hidden[-1])[:, ::10, ::16]
    for direction in (1, 2):
        rows, prefix = way.rows(direction), f"{way.name}.dir{direction}."
        goal = _crop_features(way, direction)
        for name, kind, ours in (
            ("pred_logits", "logits", decoded.logits[-1, rows]),
            ("pred_boxes", "boxes", decoded.boxes[-1, rows]),
            ("aux_logits", "logits", decoded.logits[:-1, rows]),
            ("aux_boxes", "boxes", decoded.boxes[:-1, rows]),
            ("pred_feature_sub", "logits", features[rows]),
            ("gt_feature_sub", "features", goal[:, ::16]),
            ("target_boxes", "boxes", _boxes(way, direction)),
        ):
            if (full := prefix + name) not in a:
                continue
            golden = a[full]
            if several:
                axis = 1 if name.startswith("aux") else 0
                golden = golden.narrow(axis, 0, golden.shape[axis] // len(way.batch) * way.images)
            yield compare(f"{full}.img0" if several else full, kind, ours, golden)
        yield from _matches(way, direction, ".ours" if several else "")


def _matches(way: Way, direction: int, suffix: str) -> Iterator[Row]:
    a, prefix = way.golden.arrays, f"{way.name}.dir{direction}.match."
    layers = way.run.matches.layers
    for array in a:
        found = re.fullmatch(rf"{re.escape(prefix)}(final|aux(\d+))\.img(\d+)\.src", array)
        if found is None or int(found[3]) >= way.images:
            continue
        layer = int(found[2]) if found[2] else len(layers) - 1
        image = way.rows(direction).start + int(found[3])
        name = array.removesuffix(".src")
        yield pairs(name + suffix, layers[layer].pair(image), (a[array], a[f"{name}.tgt"]))


def _crop_features(way: Way, direction: int) -> Tensor:
    """Direction 1 wants the features of the first view's crops."""
    crops = torch.stack([sample["crops"][direction - 1] for sample in way.batch[: way.images]])
    return way.model.embed(crops.flatten(0, 1))


def _targets(way: Way, direction: int) -> list[Target]:
    view = 1 if direction == 1 else 0
    chosen = way.batch[: way.images]
    images, boxes = ([sample[k][view] for sample in chosen] for k in ("views", "priors"))
    return way.model.targets(images, boxes, [""] * len(chosen))


def _boxes(way: Way, direction: int) -> Tensor:
    return torch.stack([target.boxes for target in _targets(way, direction)])


def _global(way: Way) -> Iterator[Row]:
    """What the heads on the encoder made of each view."""
    for part, short in (("projector", "proj"), ("predictor", "pred")):
        for view, ours in enumerate(way.run.seen[part]):
            name = f"{way.name}.enc_head.{short}{view + 1}"
            if name in way.golden.arrays:
                golden, noise = way.golden.arrays[name], _FEW if way.name == "train" else 0.0
                yield compare(name, "features", ours, golden, noise=noise)


def _losses(way: Way, names: dict[str, str]) -> Iterator[Row | Aside]:
    golden, run = way.golden, way.run
    targets = [target for direction in (1, 2) for target in _targets(way, direction)]
    ours = unweighted(way.model, run.losses)
    detector, prefix = way.model.detector, f"{way.name}.loss."
    yield from compare_losses(golden, prefix, detector, ours, run.logged, targets)
    total, grown = f"{way.name}.total_loss", f"{way.name}.grad_norm"
    if total in golden.arrays:
        yield compare(total, "loss", run.total, golden.arrays[total])
    if grown in golden.arrays:
        keys = golden.manifest["grad_keys"]
        few = way.name == "train"
        noise = torch.tensor([_FEW if few and _BEFORE_NORM.fullmatch(key) else 0 for key in keys])
        yield from compare_gradients(
            way.model, names, run.total, keys, golden, grown, part=_half_of_table, noise=noise
        )


def _half_of_table(key: str, gradient: Tensor) -> Tensor:
    """Of Deformable DETR's one query table: the position, or the content."""
    if key == "transformer.tgt_embed.weight":
        return gradient[:, gradient.shape[1] // 2 :]
    split = key == "query_embed.weight" and gradient.shape[1] > 256
    return gradient[:, : gradient.shape[1] // 2] if split else gradient
