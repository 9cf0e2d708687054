"""Compare single operators with golden files: attention, encodings, matchers, losses, assigners.

A check is chosen by the arrays that a file holds; the repository says which variant is meant.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from d2_unsupdet.detectors import (
    DeformableAttention,
    Denoising,
    FocalLoss,
    HungarianAssigner,
    LearnedPosition,
    OverlapAssigner,
    Proposals,
    SinePosition,
    SuppressedPairs,
    TopPairs,
)
from d2_unsupdet.detectors.assigning import Stage, assign
from d2_unsupdet.detectors.boxes import inverse_sigmoid, paired_giou, to_xyxy
from d2_unsupdet.detectors.deformable_attention import deformable_attention
from d2_unsupdet.detectors.denoising import noised_boxes, noised_labels
from d2_unsupdet.detectors.encoder import token_centres, valid_ratio
from d2_unsupdet.detectors.position import sine_embedding
from d2_unsupdet.detectors.structures import DenoisingQueries, Encoded, Queries, Target
from d2_unsupdet.parity.compare import Aside, Row, align_detections, compare, pairs
from d2_unsupdet.parity.golden import Golden
from d2_unsupdet.parity.pretext_operators import attention_masks, box_jitter, token_cut
from d2_unsupdet.parity.rule import official_state

Check = Callable[[Golden], Iterator[Row | Aside]]

_TORCHVISION = "box_iou of torchvision, which our assigners call"


def is_operators(golden: Golden) -> bool:
    """Whether the file holds what an operator of this family computes."""
    return bool(list(_checks(golden)))


def check_operators(golden: Golden) -> Iterator[Row | Aside]:
    """A row for each array that is an output."""
    for check in _checks(golden):
        yield from check(golden)


def _checks(golden: Golden) -> Iterator[Check]:
    for prefix, check in _CHECKS.items():
        if any(name.startswith(prefix) for name in golden.arrays):
            yield check


def _cases(golden: Golden, pattern: str) -> list[str]:
    return sorted({m[1] for name in golden.arrays if (m := re.match(pattern, name))})


# ---- deformable attention


def _core(golden: Golden) -> Iterator[Row]:
    a = golden.arrays
    names = ("value", "sampling_locations", "attention_weights")
    for case in _cases(golden, r"core\.(\w+)\.value$"):
        p = f"core.{case}."
        inputs = [a[p + n].clone().requires_grad_() for n in names]
        shapes = [(h, w) for h, w in a[p + "spatial_shapes"].tolist()]
        out = deformable_attention(inputs[0], shapes, inputs[1], inputs[2])
        yield compare(p + "out", "values", out, a[p + "out"])
        found = torch.autograd.grad(out, inputs, a[p + "grad_out"])
        for name, gradient in zip(names, found, strict=True):
            yield compare(f"{p}grad_{name}", "gradient", gradient, a[f"{p}grad_{name}"])


def _module(golden: Golden) -> Iterator[Row]:
    a = golden.arrays
    state = {n: t for n, t in official_state(golden.manifest).items() if ":" not in n}
    for case in _cases(golden, r"(module_\w+)\.query$"):
        reference = a[f"{case}.reference"]
        dim, levels = a[f"{case}.query"].shape[-1], reference.shape[2]
        shapes = _shapes(golden)[:levels]
        heads = _heads(golden, case)
        points = len(state["attention_weights.bias"]) // (heads * levels)
        part = DeformableAttention(dim=dim, heads=heads, levels=levels, points=points)
        part.load_state_dict(state)
        query, reference, value = (
            a[f"{case}.{n}"].clone().requires_grad_() for n in ("query", "reference", "input")
        )
        out = part(query, reference, value, shapes, a[f"{case}.padding_mask"])
        yield compare(f"{case}.out", "values", out, a[f"{case}.out"])
        found = torch.autograd.grad(out, (query, reference, value), a[f"{case}.grad_out"])
        for name, gradient in zip(("query", "reference", "input"), found, strict=True):
            golden_gradient = a[f"{case}.grad_{name}"]
            yield compare(f"{case}.grad_{name}", "gradient", gradient, golden_gradient)


def _heads(golden: Golden, case: str) -> int:
    """The note of the module says `4 heads`."""
    notes = " ".join(golden.manifest.get("array_notes", {}).values())
    found = re.search(r"(\d+) heads", notes)
    return int(found[1]) if found else 4


def _masks(golden: Golden) -> list[Tensor]:
    return [golden.arrays[n] for n in sorted(golden.arrays) if n.startswith("geom.mask")]


def _shapes(golden: Golden) -> list[tuple[int, int]]:
    return [(int(m.shape[1]), int(m.shape[2])) for m in _masks(golden)]


def _geometry(golden: Golden) -> Iterator[Row]:
    a, masks, shapes = golden.arrays, _masks(golden), _shapes(golden)
    ratios = torch.stack([valid_ratio(mask, torch.float32) for mask in masks], dim=1)
    if "geom.valid_ratios" in a:
        yield compare("geom.valid_ratios", "values", ratios, a["geom.valid_ratios"])
    centres = token_centres(shapes, ratios)[:, :, None] * ratios[:, None]
    name = "geom.encoder_reference_points"
    if name in a:
        yield compare(name, "values", centres, a[name])
    if "geom.memory" in a:
        yield from _proposal_geometry(golden, ratios)
    if "geom.pos_embed_out" in a:
        golden_out = a["geom.pos_embed_out"]
        dim = golden_out.shape[-1] // a["geom.pos_embed_in"].shape[-1]
        ours = sine_embedding(a["geom.pos_embed_in"].sigmoid(), dim=dim)
        yield compare("geom.pos_embed_out", "values", ours, golden_out)


def _proposal_geometry(golden: Golden, ratios: Tensor) -> Iterator[Row]:
    a, masks, shapes = golden.arrays, _masks(golden), _shapes(golden)
    memory = a["geom.memory"]
    mask = torch.cat([m.flatten(1) for m in masks], dim=1)
    encoded = Encoded(memory, mask, torch.zeros_like(memory), shapes, ratios)
    part = Proposals(num_proposals=1, dim=memory.shape[-1])
    state = official_state(golden.manifest)
    for own, theirs in (("project", "enc_output"), ("norm", "enc_output_norm")):
        module = getattr(part, own)
        prefix = f"transformer:{theirs}."
        module.load_state_dict({n: state[prefix + n] for n in ("weight", "bias")})
    found = part(encoded)
    yield compare("geom.output_memory", "values", found.tokens, a["geom.output_memory"])
    yield compare("geom.proposals_sigmoid", "boxes", found.anchors, a["geom.proposals_sigmoid"])


# ---- encodings


def _positions(golden: Golden) -> Iterator[Row]:
    a, mask = golden.arrays, golden.arrays["pos.mask"]
    shifted = not golden.repository.endswith("facebookresearch/detr")
    for name in ("pos.sine128", "pos.sine16_full", "pos.sineHW"):
        if name not in a:
            continue
        channels = a[name].shape[1]
        stride = 4 if name == "pos.sine128" else 1  # "every 4th channel of 256"
        warm = golden.repository.endswith("DAB-DETR")
        part = SinePosition(
            dim=channels * stride,
            half_cell=shifted and not warm,
            temperature=20 if warm else 10000,
        )
        ours = _as_map(part(mask), mask)[:, ::stride]
        # On the padding the count is divided by almost nothing: only rounding stands there.
        valid = (~mask)[:, None].expand_as(ours)
        yield compare(name, "values", ours[valid], a[name][valid])
    if "pos.learned8" in a:
        state = official_state(golden.manifest)
        rows, width = state["row_embed.weight"].shape
        learned = LearnedPosition(dim=2 * width, size=rows)
        learned.load_state_dict(state)
        ours = _as_map(learned(mask), mask)
        yield compare("pos.learned8", "values", ours, a["pos.learned8"])


def _as_map(tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, mask.shape[1:])


def _anchors(golden: Golden) -> Iterator[Row]:
    a, position = golden.arrays, golden.arrays["sine.pos"]
    dim = a["sine.out2"].shape[-1] // 2
    for name, order in (("sine.out2", [1, 0]), ("sine.out4", [1, 0, 2, 3])):
        ours = sine_embedding(position[..., order], dim=dim)
        yield compare(name, "values", ours, a[name])


# ---- matching, losses, boxes


def _matcher(golden: Golden) -> Iterator[Row]:
    a = golden.arrays
    softmax = golden.repository.endswith("facebookresearch/detr")
    assigner = HungarianAssigner(
        classification="softmax" if softmax else "focal", class_cost=1.0 if softmax else 2.0
    )
    for case in _cases(golden, r"matcher\.(\w+)\.logits$"):
        p = f"matcher.{case}."
        logits, boxes = a[p + "logits"], a[p + "boxes"]
        targets = [
            Target(a[f"{p}img{i}.labels"], a[f"{p}img{i}.tgt_boxes"], f"img{i}")
            for i in range(len(logits))
        ]
        match = assign([(assigner, Stage(logits[None], boxes[None], None, targets))])[0][0]
        for image in range(len(logits)):
            q = f"{p}img{image}"
            yield pairs(q, match.pair(image), (a[f"{q}.src"], a[f"{q}.tgt"]))


def _focal(golden: Golden) -> Iterator[Row]:
    a = golden.arrays
    note = golden.manifest["array_notes"]["focal.inputs"]
    found = re.search(r"num_boxes=(\d+)", note)
    count = torch.tensor([float(found[1]) if found else 1.0])
    # Several classes of a query may be wanted here; ours has one, so each class is a query.
    image, place = a["focal.targets"].flatten(1).nonzero().unbind(1)
    index, label = (torch.zeros_like(image), image, place), torch.zeros_like(image)
    for alpha in _cases(golden, r"focal\.alpha([-\d.]+)\.loss$"):
        logits = a["focal.inputs"].clone().requires_grad_()
        loss = FocalLoss(alpha=float(alpha))
        out = loss(logits.flatten(1)[None, ..., None], index, label, count)[0]
        p = f"focal.alpha{alpha}."
        # The original takes the mean over queries; ours, as it uses it, the sum.
        out = out / logits.shape[1]
        yield compare(p + "loss", "loss", out, a[p + "loss"])
        (gradient,) = torch.autograd.grad(out, logits)
        yield compare(p + "grad", "gradient", gradient, a[p + "grad"])


def _boxes(golden: Golden) -> Iterator[Row | Aside]:
    a = golden.arrays
    first, second = to_xyxy(a["giou.boxes1"]), to_xyxy(a["giou.boxes2"])
    yield compare("giou.xyxy1", "boxes", first, a["giou.xyxy1"])
    yield compare("giou.xyxy2", "boxes", second, a["giou.xyxy2"])
    yield Aside("giou.iou", _TORCHVISION)
    rows, columns = len(first), len(second)
    each = first.repeat_interleave(columns, 0), second.repeat(rows, 1)
    giou = paired_giou(*each).view(rows, columns)
    yield compare("giou.giou", "boxes", giou, a["giou.giou"])


def _logit(golden: Golden) -> Iterator[Row]:
    x, y = golden.arrays["inverse_sigmoid.x"], golden.arrays["inverse_sigmoid.y"]
    yield compare("inverse_sigmoid.y", "logits", inverse_sigmoid(x, 1e-5), y)


# ---- denoising


def _denoising(golden: Golden) -> Iterator[Row]:
    a, table = golden.arrays, golden.arrays["label_enc_weight"]
    for case in _cases(golden, r"(\w+)\.groups$"):
        images = len(_cases(golden, rf"{case}\.(img\d+)\.labels$"))
        targets = [
            Target(a[f"{case}.img{i}.labels"], a[f"{case}.img{i}.boxes"]) for i in range(images)
        ]
        part = Denoising(
            num_classes=len(table) - 1,
            dim=table.shape[1] + 1,
            groups=int(a[f"{case}.groups"]),
            label_noise=0.0,
            box_noise=0.0,
        )
        part.load_state_dict({"labels.weight": table})
        clean = part(targets)
        yield from _denoising_queries(golden, f"{case}.clean.", clean, targets)
        empty = clean is None or not len(clean.labels)
        noisy = clean if empty else _noisy(golden, part, f"{case}.noise.", clean)
        yield from _denoising_queries(golden, f"{case}.noisy.", noisy, targets)


def target_index(noised: DenoisingQueries, targets: Sequence[Target]) -> Tensor:
    """Of each noised copy, the row of its target among those of all images."""
    starts = torch.tensor([0, *map(len, targets)]).cumsum(0)[:-1]
    most = len(noised.group) // noised.groups
    return starts[noised.image] + noised.slot % max(1, most)


def _denoising_queries(
    golden: Golden, prefix: str, noised: DenoisingQueries | None, targets: Sequence[Target]
) -> Iterator[Row]:
    a, images = golden.arrays, len(targets)
    content = torch.nn.functional.pad(a["tgt_weight"], (0, 1)).expand(images, -1, -1)
    anchors = a["refpoint_weight"].expand(images, -1, -1)
    count = anchors.shape[1]
    mask = Queries(content, None, anchors, None, noised).attention_mask()
    found = {
        "attn_mask": torch.zeros(count, count, dtype=torch.bool) if mask is None else mask,
        "pad_size": torch.tensor(0 if noised is None else len(noised.group)),
    }
    if noised is not None:
        once = len(noised.labels) // noised.groups
        found |= {
            "batch_idx": noised.image[:once],
            "known_indice": target_index(noised, targets),
            "map_known_indice": noised.slot,
            "known_labels": noised.labels,
            "known_boxes": noised.boxes,
        }
        content = torch.cat([noised.content, content], dim=1)
        anchors = torch.cat([noised.reference_logit, anchors], dim=1)
    for name, value in found.items():
        if prefix + name not in a and not value.numel():
            continue  # without objects the original makes no such array
        kind = "boxes" if name == "known_boxes" else "exact"
        yield compare(prefix + name, kind, value, a[prefix + name])
    yield compare(prefix + "query_label", "values", content, a[prefix + "query_label"])
    yield compare(prefix + "query_bbox", "logits", anchors, a[prefix + "query_bbox"])


def _noisy(
    golden: Golden, part: Denoising, prefix: str, clean: DenoisingQueries
) -> DenoisingQueries:
    """The same slots with the given random numbers; the note says how strong the noise is."""
    a, note = golden.arrays, " ".join(golden.manifest["array_notes"].values())
    scales = dict(re.findall(r"(label|box)_noise_scale ([\d.]+\d)", note))
    replaced = a[prefix + "p"] < float(scales["label"])
    shift = (a[prefix + "box_uniform"] * 2 - 1) * float(scales["box"])
    content, logit = part.embed(
        noised_labels(clean.labels, a[prefix + "new_labels"], replaced),
        noised_boxes(clean.boxes, shift),
    )
    places = (clean.image, clean.slot)
    return replace(
        clean,
        content=clean.content.index_put(places, content),
        reference_logit=clean.reference_logit.index_put(places, logit),
    )


# ---- DETA


@contextmanager
def _first_samples() -> Iterator[None]:
    """The golden files were made with randperm(n) = arange(n)."""
    original = torch.randperm
    torch.randperm = lambda n, **kwargs: torch.arange(n, device=kwargs.get("device"))  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.randperm = original


def _overlap(golden: Golden) -> Iterator[Row]:
    a = golden.arrays
    count = len(_cases(golden, r"assign\.anchors\.(img\d+)$"))
    anchors = torch.stack([a[f"assign.anchors.img{i}"] for i in range(count)])
    targets = [
        Target(a[f"assign.labels.img{i}"], a[f"assign.boxes.img{i}"], f"img{i}")
        for i in range(count)
    ]
    for limit in _cases(golden, r"assign\.(\w+)\.stage1\.img0\.src$"):
        for stage in ("stage1", "stage2"):
            assigner = _assigner(stage, everything=limit != "default")
            logits = torch.zeros(1, count, anchors.shape[1], 1)
            with _first_samples():
                asked = Stage(logits, anchors[None], anchors, targets)
                match = assign([(assigner, asked)])[0][0]
            for image in range(count):
                p = f"assign.{limit}.{stage}.img{image}"
                yield pairs(p, match.pair(image), (a[f"{p}.src"], a[f"{p}.tgt"]))


def _assigner(stage: str, *, everything: bool) -> OverlapAssigner:
    first = stage == "stage1"
    samples = 10**6 if everything else (256 if first else 300)
    fraction = 1.0 if everything else (0.5 if first else 0.25)
    return OverlapAssigner(
        positive=0.7 if first else 0.6,
        negative=0.3 if first else None,
        samples=samples,
        positive_fraction=fraction,
        unique=False,
        zero_overlap="original",
    )


def _raw_matcher(golden: Golden) -> Iterator[Row | Aside]:
    a = golden.arrays
    yield Aside("matcher.iou", _TORCHVISION)
    for stage in ("stage1", "stage2"):
        matches, labels = _assigner(stage, everything=False).matcher(a["matcher.iou"])
        p = f"matcher.{stage}."
        yield compare(p + "matches", "exact", matches, a[p + "matches"])
        yield compare(p + "labels", "exact", labels, a[p + "labels"])


def _suppression(golden: Golden) -> Iterator[Row]:
    a = golden.arrays
    sizes = [(480, 640), (375, 500)]
    for case in _cases(golden, r"nms\.(\w+)\.logits$"):
        for kind, part in (("nms", SuppressedPairs()), ("topk", TopPairs())):
            found = part(a[f"nms.{case}.logits"], a[f"nms.{case}.boxes"], sizes)
            for image, one in enumerate(found):
                p = f"nms.{case}.{kind}.img{image}."
                golden_parts: Sequence[Tensor] = [a[p + n] for n in ("scores", "labels", "boxes")]
                ours = align_detections([one.scores, one.labels, one.boxes], golden_parts)
                height, width = sizes[image]
                side = torch.tensor([width, height, width, height])
                yield compare(p + "scores", "scores", ours[0], golden_parts[0])
                yield compare(p + "labels", "exact", ours[1], golden_parts[1])
                yield compare(p + "boxes", "pixels", ours[2] / side, golden_parts[2] / side)


_CHECKS: dict[str, Check] = {
    "core.": _core,
    "module_": _module,
    "geom.": _geometry,
    "pos.": _positions,
    "sine.": _anchors,
    "matcher.small.": _matcher,
    "focal.": _focal,
    "giou.": _boxes,
    "inverse_sigmoid.": _logit,
    "label_enc_weight": _denoising,
    "assign.": _overlap,
    "matcher.stage1.": _raw_matcher,
    "nms.": _suppression,
    "mask.q": attention_masks,
    "boxes_in": box_jitter,
    "a.feat": token_cut,
}
