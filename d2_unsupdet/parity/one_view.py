"""UP-DETR and DETReg beside golden files: one picture, boxes, and a crop of each box."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import ImageList
from torch import Tensor
from torchvision.ops import box_convert

from d2_unsupdet.detectors.structures import Matches, Regions
from d2_unsupdet.parity.build import CONFIGS
from d2_unsupdet.parity.compare import Aside, Row, compare, pairs
from d2_unsupdet.parity.detections import check_detections, check_forward
from d2_unsupdet.parity.detectors import compare_gradients
from d2_unsupdet.parity.golden import Golden
from d2_unsupdet.parity.losses import compare_losses
from d2_unsupdet.parity.pretexts import Pass, build_pretext, run_losses, unweighted

_UNPAIRED = "outputs with the patches, which a model in evaluation has none of"


@dataclass(frozen=True)
class Case:
    """One golden set of targets, or one way of running."""

    name: str  # of the targets
    golden: Golden
    model: Any
    batch: list[dict[str, Any]]
    run: Pass


def check_up_detr(golden: Golden, configs: Path = CONFIGS) -> Iterator[Row | Aside]:
    """All arrays of a UP-DETR file."""
    model, names = build_pretext(golden, configs, query_dropout=0.0)
    a, batch = golden.arrays, _batch(golden, "main")
    for sample, crops in zip(batch, a["patches"], strict=True):
        sample["crops"] = crops
    case = Case("main", golden, model, batch, run_losses(model, batch))
    goal = model.embed(a["patches"].flatten(0, 1))
    yield compare("gt_feature_sub", "features", goal[:, ::8], a["gt_feature_sub"])
    mask = case.run.queries.attention_mask()
    assert mask is not None
    yield compare("attention_mask", "exact", ~mask, a["attention_mask"])
    yield from _outputs(case, "")
    yield from _reconstruction(case, "")
    yield from _intermediate(case)
    last = case.run.decoded.logits[-1], case.run.decoded.boxes[-1]
    yield from check_detections(golden, model.detector, *last, _places(case))
    yield from _losses(case, "loss.main.", names)
    yield from _fewer_patches(case, 4)
    if "masked.mask_query_patch" in a:
        kept = a["masked.mask_query_patch"][..., 0].T.bool()
        model.query_dropout = 0.5  # any: the choice is given
        model._keep = lambda images, queries: kept
        model.train()
        masked = Case("main", golden, model, batch, run_losses(model, batch))
        yield from _outputs(masked, "masked.")
        yield from _reconstruction(masked, "masked.")
        yield from _losses(masked, "masked.loss.", names)


def check_detreg(golden: Golden, configs: Path = CONFIGS) -> Iterator[Row | Aside]:
    """All arrays of a DETReg file."""
    model, names = build_pretext(golden, configs)
    crops = _crops(golden)
    if crops:
        embedded = model.embed(torch.cat(crops)).split([len(c) for c in crops])
        for image, found in enumerate(embedded):
            name = f"target.main.img{image}.patches"
            yield compare(name, "features", found, golden.arrays[name])
    for number, name in enumerate(golden.cases):
        batch = _batch(golden, name)
        given = [golden.arrays[f"target.{name}.img{i}.patches"] for i in range(len(batch))]
        _give(model, batch, torch.cat(given))
        case = Case(name, golden, model, batch, run_losses(model, batch))
        if number == 0:
            yield from _outputs(case, "")
            yield from _intermediate(case)
            if "pred_features_sub" in golden.arrays:
                found = model.embed_head(case.run.decoded.hidden[-1])[:, ::6]
                theirs = golden.arrays["pred_features_sub"]
                yield compare("pred_features_sub", "logits", found, theirs)
            last = case.run.decoded.logits[-1], case.run.decoded.boxes[-1]
            yield from check_detections(golden, model.detector, *last, _places(case))
            yield from check_forward(golden, model.detector)
        yield from _losses(case, f"loss.{name}.", names)


def _batch(golden: Golden, case: str) -> list[dict[str, Any]]:
    images: ImageList = golden.images()
    batch: list[dict[str, Any]] = []
    for index, (height, width) in enumerate(images.image_sizes):
        boxes = box_convert(golden.arrays[f"target.{case}.img{index}.boxes"], "cxcywh", "xyxy")
        batch.append(
            {
                "image": images[index],
                "priors": boxes * torch.tensor([width, height, width, height]),
                "file_name": f"img{index}",
            }
        )
    return batch


def _give(model: Any, batch: list[dict[str, Any]], features: Tensor) -> None:
    """Embeddings as they are, where the file holds them in place of crops."""
    for sample in batch:
        sample["crops"] = torch.zeros(len(sample["priors"]), 3, 1, 1)
    model.embed = lambda crops: features


def _crops(golden: Golden) -> list[Tensor]:
    """Both DETReg files are made with the crops of one of them."""
    for file in (golden, _sibling(golden)):
        names = sorted(n for n in file.arrays if n.startswith("crops.main.")) if file else []
        if file and names:
            return [file.arrays[name] for name in names]
    return []


def _sibling(golden: Golden) -> Golden | None:
    path = golden.path.with_name("detreg_deformable_r50.json")
    return Golden.read(path) if path.is_file() else None


def _places(case: Case) -> Tensor:
    images, queries = case.run.decoded.boxes.shape[1:3]
    return torch.arange(queries).expand(images, -1)


def _outputs(case: Case, prefix: str) -> Iterator[Row]:
    arrays, stride = case.golden.arrays, case.golden.manifest.get("aux_logits_query_stride", 1)
    logits, boxes = case.run.decoded.logits, case.run.decoded.boxes
    for name, kind, ours in (
        ("pred_logits", "logits", logits[-1]),
        ("pred_logits_sub", "logits", logits[-1][:, ::stride]),
        ("pred_boxes", "boxes", boxes[-1]),
        ("aux_logits_sub", "logits", logits[:-1, :, ::stride]),
        ("aux_boxes", "boxes", boxes[:-1]),
    ):
        if prefix + name in arrays:
            yield compare(prefix + name, kind, ours, arrays[prefix + name])


def _reconstruction(case: Case, prefix: str) -> Iterator[Row]:
    """Every 5th query and 8th channel; of the other layers every 25th and 32nd."""
    features = case.model.feature_head(case.run.decoded.hidden)
    for name, ours in (
        ("pred_feature_sub", features[-1][:, ::5, ::8]),
        ("aux_pred_feature_sub", features[:-1, :, ::25, ::32]),
    ):
        if prefix + name in case.golden.arrays:
            yield compare(prefix + name, "logits", ours, case.golden.arrays[prefix + name])


def _intermediate(case: Case) -> Iterator[Row]:
    """The manifest's text says which elements were kept, and in which order."""
    arrays, run = case.golden.arrays, case.run
    parts = {"encoder_memory": run.encoded.memory, "decoder_hs_last": run.decoded.hidden[-1]}
    parts["decoder_hs_sub"] = run.decoded.hidden
    if run.seen.get("patch2query"):
        parts["patch2query"] = run.seen["patch2query"][0]
    for name, note in case.golden.manifest.get("dbg", {}).items():
        if f"dbg.{name}" not in arrays:
            continue
        value, unread = parts[name], run.encoded.mask
        golden = arrays[f"dbg.{name}"]
        if every := re.search(r"every (\d+)", note):
            axis = value.dim() - 2
            value = value.index_select(axis, torch.arange(0, value.shape[axis], int(every[1])))
            unread = unread[:, :: int(every[1])]
        if "sequence first" in note:
            value, unread = value.transpose(0, 1), unread.T
        if name == "encoder_memory":  # in the padding stands rounding of huge positions
            value, golden = value[~unread], golden[~unread]
        yield compare(f"dbg.{name}", "features", value, golden)


def _losses(case: Case, prefix: str, names: dict[str, str]) -> Iterator[Row | Aside]:
    golden, run = case.golden, case.run
    targets = golden.targets(case.name)
    ours = unweighted(case.model, run.losses)
    yield from compare_losses(golden, prefix, case.model.detector, ours, run.logged, targets)
    if prefix != f"loss.{case.name}.":
        return  # the rest is recorded of the first way of running
    total, grown = f"total_loss.{case.name}", f"grad_norm.{case.name}"
    yield compare(total, "loss", run.total, golden.arrays[total])
    yield from _matches(golden, f"match.{case.name}.", run.matches)
    if grown in golden.arrays:
        keys = golden.manifest["grad_keys"]
        yield from compare_gradients(case.model, names, run.total, keys, golden, grown)


def _matches(golden: Golden, prefix: str, matches: Matches) -> Iterator[Row]:
    for array in golden.arrays:
        found = re.fullmatch(rf"{re.escape(prefix)}(final|aux(\d+))\.img(\d+)\.src", array)
        if found is None:
            continue
        layer = int(found[2]) if found[2] else len(matches.layers) - 1
        name = array.removesuffix(".src")
        theirs = golden.arrays[array], golden.arrays[f"{name}.tgt"]
        yield pairs(name, matches[layer].pair(int(found[3])), theirs)


def _fewer_patches(case: Case, count: int) -> Iterator[Row]:
    """The first patches alone: as many queries for each, so fewer queries."""
    arrays, model = case.golden.arrays, case.model
    if "four_patches.pred_logits" not in arrays:
        return
    detector, images = model.detector, len(case.batch)
    features = case.run.seen["patch2query"][0].unflatten(0, (images, -1))
    each = case.run.decoded.boxes.shape[2] // features.shape[1]
    queries = detector.queries(case.run.encoded, Regions(features[:, :count], each=each))
    decoded = detector.decode(case.run.encoded, queries)
    for name, kind, ours in (
        ("pred_logits", "logits", decoded.logits[-1]),
        ("pred_boxes", "boxes", decoded.boxes[-1]),
    ):
        yield compare(f"four_patches.{name}", kind, ours, arrays[f"four_patches.{name}"])
