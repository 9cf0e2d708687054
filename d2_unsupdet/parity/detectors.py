"""Run a detector on a golden file's inputs and compare every array it holds."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from d2_unsupdet.detectors import DETR
from d2_unsupdet.detectors.structures import Decoded, Encoded, Features, Matches, Queries
from d2_unsupdet.parity.build import CONFIGS, build
from d2_unsupdet.parity.compare import Aside, Row, compare, failed, pairs
from d2_unsupdet.parity.detections import check_detections, check_forward
from d2_unsupdet.parity.golden import Golden
from d2_unsupdet.parity.losses import compare_losses, run_losses, unweighted
from d2_unsupdet.parity.operators import target_index


@dataclass
class Run:
    """One forward pass with everything that is compared afterwards."""

    golden: Golden
    model: DETR
    names: dict[str, str]
    features: Features
    encoded: Encoded
    queries: Queries
    decoded: Decoded
    order: Tensor  # (B, N): our query at each golden place
    seen: dict[str, Tensor] = field(default_factory=dict)  # outputs of parts, by golden name

    def ordered(self, values: Tensor, axis: int) -> Tensor:
        """Queries in the golden order; the batch stands before them."""
        return torch.stack(
            [v.index_select(axis - 1, o) for v, o in zip(values.unbind(axis - 1), self.order,
             strict=True)], dim=axis - 1)  # fmt: skip


def check_detector(golden: Golden, configs: Path = CONFIGS) -> Iterator[Row | Aside]:
    """A row for each array; inputs and targets are none."""
    model, names = build(golden, configs)
    run = _run(golden, model, names)
    yield from _outputs(run)
    yield from _encoder_stage(run)
    yield from _intermediate(run)
    last = run.decoded.logits[-1], run.decoded.boxes[-1]
    yield from check_detections(golden, model, *last, run.order)
    yield from check_forward(golden, model)
    for case in golden.cases:
        yield from _losses(run, case)
    if any(name.startswith("dn.") for name in golden.arrays):
        for case in sorted({n.split(".")[1] for n in golden.arrays if n.startswith("dn.")}):
            yield from _denoising(golden, model, names, case)


def _run(golden: Golden, model: DETR, names: dict[str, str]) -> Run:
    seen: dict[str, Tensor] = {}
    hooks = [part.register_forward_hook(_keeper(seen, name)) for name, part in _watched(model)]
    images = golden.images()
    features = model.features(images)
    encoded = model.encode(features)
    queries = model.queries(encoded)
    decoded = model.decode(encoded, queries)
    for hook in hooks:
        hook.remove()
    order = _order(golden, encoded, decoded)
    return Run(golden, model, names, features, encoded, queries, decoded, order, seen)


def _watched(model: DETR) -> Iterator[tuple[str, nn.Module]]:
    for number, level in enumerate(model.neck.levels):
        yield f"input_proj{number}", level
    for name, attribute in (("pix", "content_norm"), ("pos", "position_norm")):
        part = getattr(model.query_source, attribute, None)
        if isinstance(part, nn.Module):
            yield f"{name}_trans_norm", part


def _keeper(seen: dict[str, Tensor], name: str):  # type: ignore[no-untyped-def]
    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        seen[name] = output.detach()

    return keep


def _order(golden: Golden, encoded: Encoded, decoded: Decoded) -> Tensor:
    """Proposals are sorted by a logit, so that near ties may stand in another order."""
    batch, count = decoded.boxes.shape[1:3]
    order = torch.arange(count).expand(batch, -1)
    first = golden.arrays.get("init_reference")
    if first is None and {"enc_boxes", "enc_logits_class0"} <= golden.arrays.keys():
        best = golden.arrays["enc_logits_class0"].topk(count, dim=1).indices
        first = golden.arrays["enc_boxes"].gather(1, best[..., None].expand(-1, -1, 4))
    if first is None or decoded.reference is None:
        return order
    apart = torch.cdist(first, decoded.reference.detach(), p=1)
    apart = apart + (apart > 1e-4) + 1e-6 * (order[0][:, None] != order[0])  # keep places if equal
    return torch.stack([torch.from_numpy(linear_sum_assignment(a.numpy())[1]) for a in apart])


def _outputs(run: Run) -> Iterator[Row]:
    arrays, stride = run.golden.arrays, run.golden.manifest.get("aux_logits_query_stride", 1)
    logits, boxes = run.ordered(run.decoded.logits, 2), run.ordered(run.decoded.boxes, 2)
    found = {
        "pred_logits": ("logits", logits[-1]),
        "pred_logits_sub": ("logits", logits[-1][:, ::stride]),
        "pred_boxes": ("boxes", boxes[-1]),
        "aux_logits_sub": ("logits", logits[:-1, :, ::stride]),
        "aux_boxes": ("boxes", boxes[:-1]),
    }
    for name, (kind, ours) in found.items():
        if name in arrays:
            yield compare(name, kind, ours, arrays[name])


def _encoder_stage(run: Run) -> Iterator[Row]:
    arrays, found = run.golden.arrays, run.encoded.proposals
    if found is None:
        return
    if "init_reference" in arrays and run.decoded.reference is not None:
        ours = run.ordered(run.decoded.reference, 1)
        yield compare("init_reference", "boxes", ours, arrays["init_reference"])
    for name, kind, ours in (
        ("anchors", "boxes", found.anchors),
        ("enc_boxes", "boxes", found.boxes),
        ("enc_logits_class0", "logits", found.logits[..., 0]),
    ):
        if name in arrays:
            yield compare(name, kind, ours, arrays[name])
    if "enc_logits_sub" in arrays:
        golden = arrays["enc_logits_sub"]
        tokens = found.logits.shape[1]
        stride = next(s for s in range(1, tokens + 1) if -(-tokens // s) <= golden.shape[1])
        yield compare("enc_logits_sub", "logits", found.logits[:, ::stride], golden)


def _intermediate(run: Run) -> Iterator[Row]:
    """The manifest's text says which elements of a tensor were kept: `every 16th token`."""
    notes = run.golden.manifest.get("dbg", {})
    hidden = run.ordered(run.decoded.hidden, 2)
    parts = {
        "encoder_memory": (run.encoded.memory, 1),
        "backbone_c5": (run.features.maps[-1], 1),
        "decoder_hs_last": (hidden[-1], 1),
        "decoder_hs_sub": (hidden, 2),
        "decoder_ref_sub": (_references(run), 2),
        **{name: (value, 1) for name, value in run.seen.items()},
    }
    if "input_proj0" in run.seen:
        parts["input_proj"] = (run.seen["input_proj0"], 1)
    for name, note in notes.items():
        golden = run.golden.arrays.get(f"dbg.{name}")
        if golden is None:
            continue
        if name not in parts:
            yield failed(f"dbg.{name}", "features", "no counterpart is known")
            continue
        value, axis = parts[name]
        if name.endswith("_trans_norm"):
            value = run.ordered(value, 1)
        unread = run.encoded.mask  # what stands in the padding is rounding of huge positions
        if every := re.search(r"every (\d+)", note):
            kept = torch.arange(0, value.shape[axis], int(every[1]))
            value, unread = value.index_select(axis, kept), unread[:, :: int(every[1])]
        if "sequence first" in note:
            value, unread = value.transpose(0, 1), unread.T
        if name == "encoder_memory":
            value, golden = value[~unread], golden[~unread]
        yield compare(f"dbg.{name}", "features", value, golden)


def _references(run: Run) -> Tensor:
    """What each layer hands to the next: its boxes if it refines, else the first reference."""
    if run.model.decoder.refine:
        return run.ordered(run.decoded.boxes, 2)
    reference = run.decoded.reference
    if reference is None:
        return run.decoded.boxes
    return run.ordered(reference, 1).expand(len(run.decoded.boxes), -1, -1, -1)


def _losses(run: Run, case: str) -> Iterator[Row | Aside]:
    golden, model, targets = run.golden, run.model, run.golden.targets(case)
    losses, matches, logged = run_losses(model, run.decoded, run.encoded, run.queries, targets)
    yield from compare_losses(
        golden, f"loss.{case}.", model, unweighted(model, losses), logged, targets
    )
    total = sum(losses.values(), start=torch.zeros(()))
    if f"total_loss.{case}" in golden.arrays:
        yield compare(f"total_loss.{case}", "loss", total, golden.arrays[f"total_loss.{case}"])
    yield from _matches(run, case, matches)
    if f"grad_norm.{case}" in golden.arrays:
        keys = golden.manifest["grad_keys"]
        yield from compare_gradients(run.model, run.names, total, keys, golden, f"grad_norm.{case}")


def _matches(run: Run, case: str, matches: Matches) -> Iterator[Row]:
    prefix, count = f"match.{case}.", len(matches.layers)
    layers = {
        re.sub(r"\.src$", "", n.removeprefix(prefix))
        for n in run.golden.arrays
        if n.startswith(prefix) and n.endswith(".src")
    }
    for name in sorted(layers):
        stage, image = name.rsplit(".img", 1)
        source, target = (run.golden.arrays[f"{prefix}{name}.{end}"] for end in ("src", "tgt"))
        encoder = stage in ("enc", "stage1")
        if encoder:
            assert matches.encoder is not None
            ours = matches.encoder.pair(int(image))
        else:
            layer = int(stage[3:]) if stage.startswith("aux") else count - 1
            query, chosen = matches[layer].pair(int(image))
            ours = (run.order[int(image)].argsort()[query], chosen)  # our places to golden ones
        yield pairs(f"{prefix}{name}", ours, (source, target))


def compare_gradients(
    model: nn.Module,
    names: dict[str, str],
    total: Tensor,
    keys: list[str],
    golden: Golden,
    array: str,
    part: Callable[[str, Tensor], Tensor] = lambda key, gradient: gradient,
    noise: Tensor | float = 0.0,
) -> Iterator[Row]:
    """One row for all norms.

    Args:
        part: of the gradient of ours, what belongs to an official tensor.
        noise: more that may be absolute, for each key.
    """
    parameters = dict(model.named_parameters())
    wanted = [parameters[_ours(key, names)] for key in keys]
    live = [p for p in wanted if p.requires_grad]
    found = torch.autograd.grad(total, live, retain_graph=True, allow_unused=True)
    grown = {id(p): g for p, g in zip(live, found, strict=True) if g is not None}
    ours = torch.stack([part(key, grown[id(p)]).norm() if id(p) in grown else torch.zeros(()) for
                        key, p in zip(keys, wanted, strict=True)])  # fmt: skip
    # A key's bias moves all scores of a softmax alike: its gradient is zero, and here rounding.
    rounding = 1e-8 * float(golden.arrays[array].max())
    row = compare(array, "grad_norm", ours, golden.arrays[array], noise=rounding + noise)
    if not row.passed:
        apart = (ours - golden.arrays[array]).abs() / (golden.arrays[array] + 100 * rounding)
        worst = [f"{keys[i]} {ours[i]:.3g} != {golden.arrays[array][i]:.3g}" for i in
                 apart.topk(min(3, len(keys))).indices]  # fmt: skip
        row = Row(array, row.kind, row.absolute, row.relative, row.excess, "; ".join(worst))
    yield row


def _ours(key: str, names: dict[str, str]) -> str:
    """Gradients are listed under either of a head's two names."""
    return names[key] if key in names else names[key.removeprefix("transformer.decoder.")]


def _denoising(
    golden: Golden, model: DETR, names: dict[str, str], case: str
) -> Iterator[Row | Aside]:
    """The training forward, without noise."""
    prefix, arrays = f"dn.{case}.", golden.arrays
    model.train()
    targets = golden.targets(case)
    encoded = model.encode(model.features(golden.images()))
    queries = model.queries(encoded, targets=targets)
    decoded = model.decode(encoded, queries)
    losses, _, logged = run_losses(model, decoded, encoded, queries, targets)
    noised, mask = queries.denoising, queries.attention_mask()
    assert noised is not None and mask is not None and decoded.denoising is not None
    stride = golden.manifest.get("aux_logits_query_stride", 1)
    once = len(noised.labels) // noised.groups
    for name, kind, ours in (
        ("attn_mask", "exact", mask),
        ("batch_idx", "exact", noised.image[:once]),
        ("known_indice", "exact", target_index(noised, targets)),
        ("known_labels", "exact", noised.labels),
        ("known_boxes", "boxes", noised.boxes),
        ("map_known_indice", "exact", noised.slot),
        ("pad_size", "exact", torch.tensor(len(noised.group))),
        ("input_query_label", "values", noised.content),
        ("input_query_bbox", "logits", noised.reference_logit),
        ("dn_logits", "logits", decoded.denoising.logits),
        ("dn_boxes", "boxes", decoded.denoising.boxes),
        ("pred_logits_sub", "logits", decoded.logits[-1][:, ::stride]),
        ("pred_boxes", "boxes", decoded.boxes[-1]),
    ):
        if prefix + name in arrays:
            yield compare(prefix + name, kind, ours, arrays[prefix + name])
    yield from compare_losses(
        golden, f"{prefix}loss.", model, unweighted(model, losses), logged, targets
    )
    total = sum(losses.values(), start=torch.zeros(()))
    if f"{prefix}total_loss" in arrays:
        yield compare(f"{prefix}total_loss", "loss", total, arrays[f"{prefix}total_loss"])
    if f"{prefix}grad_norm" in arrays:
        keys = golden.manifest["dn_grad_keys"]
        yield from compare_gradients(model, names, total, keys, golden, f"{prefix}grad_norm")
    model.eval()
