"""What a whole DETR-style detector holds, under our names.

Heads and layers are counted, never guessed from what is left: in a file that was cut off, the last
head of the decoder would otherwise pass for that of the encoder stage.
"""

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from d2_unsupdet.checkpoint.class_heads import is_class_tensor
from d2_unsupdet.errors import UserError

LAYERED = ("encoder.layers", "decoder.layers", "heads.classes", "heads.boxes", "neck.levels")
_FIRST_ONLY = "cross_attn.query_position."  # Conditional DETR has it in its first layer alone


def _both(*names: str) -> set[str]:
    return {f"{name}.{part}" for name in names for part in ("weight", "bias")}


def _mlp(name: str, layers: int) -> set[str]:
    return _both(*(f"{name}.layers.{i}" for i in range(layers)))


def _inside(part: str, names: Iterable[str]) -> set[str]:
    return {f"{part}.{name}" for name in names}


_DENSE = {"in_proj_weight", "in_proj_bias", *_both("out_proj")}
_POINTS = _both("sampling_offsets", "attention_weights", "value_proj", "output_proj")
_SPLIT = _both("query_content", "key_content", "key_position", "value", "out_proj")
_FFN = _both("ffn.linear1", "ffn.linear2", "norm_ffn")
_OWN = {
    "dense": _inside("self_attn", _DENSE) | _FFN | _both("norm_self"),
    "split": _inside("self_attn", _SPLIT | _both("query_position")) | _FFN | _both("norm_self"),
    "points": _inside("self_attn", _POINTS) | _FFN | _both("norm_self"),
}
_CROSS = {
    "dense": _inside("cross_attn", _DENSE) | _both("norm_cross"),
    "split": _inside("cross_attn", _SPLIT | _both("query_sine")) | _both("norm_cross"),
    "points": _inside("cross_attn", _POINTS) | _both("norm_cross"),
}
_LEARNED = {"query_source.embed.weight"}
_ANCHORS = (
    {"query_source.content.weight", "query_source.anchors.weight"}
    | _mlp("decoder.position.scale", 2)
    | _mlp("decoder.position.project", 2)
)
_PROPOSALS = (
    _both("proposals.project", "proposals.norm", "proposals.classes")
    | _mlp("proposals.boxes", 3)
    | _both("query_source.position_proj", "query_source.position_norm")
)
_LABELS = "query_source.denoising.labels.weight"
_FIXED = {
    "detr": _LEARNED | _both("decoder.norm"),
    "conditional_detr": _LEARNED
    | _both("decoder.norm")
    | _mlp("decoder.position.scale", 2)
    | _mlp("query_source.reference", 2),
    "deformable_detr": _LEARNED | _both("query_source.reference"),
    "two_stage": _PROPOSALS,
    "dab_deformable_detr": _ANCHORS,
    "dn_dab_deformable_detr": _ANCHORS | {_LABELS},
    "deta": _PROPOSALS | _both("query_source.content_proj", "query_source.content_norm"),
}


def check_detector(
    layout: str,
    state: Mapping[str, Tensor],
    theirs: Callable[[str], str] = str,
    *,
    classes: bool = True,
) -> None:
    """Every tensor that a detector of this layout has, and no other.

    Args:
        layout: an official one.
        state: under our names, with or without a backbone.
        theirs: the name in the file of one of ours, for messages.
        classes: it has class heads; pretrained ones may have none.
    """
    kind = _kind(layout, state)
    expected = _expected(kind, state)
    if not classes:
        expected = {name for name in expected if not is_class_tensor(name)}
    found = {name for name in state if not name.startswith("backbone.")}
    _refuse_foreign(found - expected)
    missing = expected - found
    if kind == "dab_deformable_detr" and not missing and _narrow_content(state):
        missing = {_LABELS}
    if missing:
        names = sorted(map(theirs, missing))
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
        raise UserError(f"The file is no whole {layout}, it lacks {listed}; fetch it again.")


def check_layers(names: Iterable[str]) -> None:
    """Of a detector in parts of ours: no layer, head or level has a hole."""
    names = list(names)
    for part in LAYERED:
        found: dict[int, set[str]] = {}
        for name in names:
            if match := re.fullmatch(rf"{re.escape(part)}\.(\d+)\.(.+)", name):
                found.setdefault(int(match[1]), set()).add(match[2])
        every = set().union(*found.values())
        every = {leaf for leaf in every if not leaf.startswith(_FIRST_ONLY)}
        for index in range(max(found, default=-1) + 1):
            if lost := sorted(every - found.get(index, set())):
                raise UserError(f"The file lacks {part}.{index}.{lost[0]}; fetch it again.")
    _check_head_counts(names)


def _check_head_counts(names: list[str]) -> None:
    layers = len(_indices("decoder.layers", names))
    for part in ("heads.classes", "heads.boxes"):
        heads = len(_indices(part, names))
        if layers and heads not in (0, 1, layers):
            raise UserError(
                f"The file holds {heads} {part} for {layers} decoder layers, where one or "
                f"{layers} belong; fetch it again."
            )


def _kind(layout: str, state: Mapping[str, Tensor]) -> str:
    two_stage = any(name.startswith(("proposals.", "query_source.position_")) for name in state)
    return "two_stage" if layout == "deformable_detr" and two_stage else layout


def _expected(kind: str, state: Mapping[str, Tensor]) -> set[str]:
    """Counts come from the decoder's layers and the embedding of levels."""
    cross = {"detr": "dense", "conditional_detr": "split"}.get(kind, "points")
    deformable = cross == "points"
    encoder = "points" if deformable else "dense"
    decoder = "split" if cross == "split" else "dense"
    layers = max(1, _top("decoder.layers", state))
    heads = _heads(state, layers) if deformable else 1
    result = set(_FIXED[kind])
    result |= _copies("encoder.layers", max(1, _top("encoder.layers", state)), _OWN[encoder])
    result |= _copies("decoder.layers", layers, _OWN[decoder] | _CROSS[cross])
    result |= _copies("heads.classes", heads, ("weight", "bias"))
    for head in range(heads):
        result |= _mlp(f"heads.boxes.{head}", 3)
    if cross == "split":
        result |= _both(f"decoder.layers.0.{_FIRST_ONLY.rstrip('.')}")
    if deformable:
        levels = state.get("encoder.level_embed")
        count = _top("neck.levels", state) if levels is None else len(levels)
        result |= _copies("neck.levels", count, _both("conv", "norm")) | {"encoder.level_embed"}
    else:
        result |= _both("neck.levels.0.conv")
        if any(name.startswith("encoder.norm.") for name in state):  # norms before each part
            result |= _both("encoder.norm")
    return result


def _heads(state: Mapping[str, Tensor], layers: int) -> int:
    """One for all layers, or one each."""
    return layers if max(_top("heads.classes", state), _top("heads.boxes", state)) > 1 else 1


def _copies(part: str, count: int, names: Iterable[str]) -> set[str]:
    return {f"{part}.{i}.{name}" for i in range(count) for name in names}


def _indices(part: str, names: Iterable[str]) -> set[int]:
    pattern = re.compile(rf"{re.escape(part)}\.(\d+)\.")
    return {int(match[1]) for name in names if (match := pattern.match(name))}


def _top(part: str, names: Iterable[str]) -> int:
    return 1 + max(_indices(part, names), default=-1)


def _narrow_content(state: Mapping[str, Tensor]) -> bool:
    """The last channel of DN's queries is none of the table's: it tells them from noised ones."""
    return state["query_source.content.weight"].shape[1] != state["encoder.level_embed"].shape[1]


def _refuse_foreign(foreign: set[str]) -> None:
    if foreign:
        names = sorted(foreign)
        raise UserError(
            f"{len(names)} tensors ({', '.join(names[:3])}) have no place in a detector of "
            "this layout; remove them, or say another layout with --from."
        )
