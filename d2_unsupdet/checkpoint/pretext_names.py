"""Official files of UP-DETR, DETReg and Siamese DETR: a detector, and the heads that taught it.

Under their own prefixes stand the names of the detectors' repositories, so their tables are used.
The surprise: Siamese DETR keeps the halves of Deformable DETR's query table in two tensors.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from d2_unsupdet.checkpoint.class_heads import is_class_tensor
from d2_unsupdet.checkpoint.detr_names import BACKBONE, LOST_PARTS, OFFICIAL, PREFIX, arrange_heads
from d2_unsupdet.checkpoint.layout import Arranged, Format, Rules, State, apply_rules
from d2_unsupdet.errors import UserError

WRAPPER = "detector."  # what a box pretext of ours calls the detector it trains
_DETECTORS = {entry.name: entry for entry in OFFICIAL}
_INNER = {  # which tensors of a decoder layer tell the detector; any one of several
    "detr": r"transformer\.decoder\.layers\.\d+\.multihead_attn\.in_proj_(weight|bias)",
    "conditional_detr": r"transformer\.decoder\.layers\.\d+\.sa_qcontent_proj\.(weight|bias)",
    "deformable_detr": r"transformer\.decoder\.layers\.\d+\.cross_attn\.sampling_offsets\.\w+",
}
_OWN: Rules = (  # their heads beside the detector's, under our names
    (r"^feature_align\.", "feature_head."),
    (r"^pred_head\.feature_align\.", "feature_head."),
    (r"^feature_embed\.", "embed_head."),
    (r"^enc_head\.0\.(projector|predictor)\.mlp\.", r"\1."),
)
_IS_OWN = re.compile(
    r"(patch2query|feature_align|feature_embed|pred_head\.feature_align|"
    r"enc_head\.0\.(projector|predictor)\.mlp)\."
)
_BACKBONE: Rules = ((r"^backbone\.(?=conv1|bn1|layer\d)", "backbone.0.body."), *BACKBONE)
_SPLIT = ("query_embed.weight", "transformer.tgt_embed.weight")
_JOINED = "query_source.embed.weight"
_CLASS = re.compile(r"heads\.classes\.\d+\.(weight|bias)")


def is_pretext(found: Format) -> bool:
    """Whether a layout is one of these."""
    return found in PRETEXTS


def is_wrapped(names: Iterable[str]) -> bool:
    """Whether these are the names of a box pretext of ours: a whole detector behind a prefix."""
    return any(name.startswith(f"{WRAPPER}heads.boxes.") for name in names)


def unwrapped(state: Mapping[str, Tensor]) -> tuple[State, dict[str, str]]:
    """The detector to finetune of a pretext of ours, and what was left out: name -> reason."""
    seen = {n.removeprefix(WRAPPER): t for n, t in state.items() if n.startswith(WRAPPER)}
    dropped = {n: "head or teacher of the pretext" for n in state if not n.startswith(WRAPPER)}
    dropped |= {WRAPPER + n: "class head of the pretext" for n in seen if is_class_tensor(n)}
    return {n: t for n, t in seen.items() if WRAPPER + n not in dropped}, dropped


def is_own(name: str) -> bool:
    """Whether a name of ours is a pretext's, outside the detector that it trains."""
    return name.startswith(("patch2query.", "feature_head.", "embed_head.", "projector.",
                            "predictor.", "teacher."))  # fmt: skip


def method_of(names: Iterable[str]) -> str | None:
    """Which pretext's heads are among names of ours; None without any."""
    own = {name.partition(".")[0] for name in names if is_own(name)}
    if "projector" in own:
        return "Siamese DETR"
    if "patch2query" in own:
        return "UP-DETR"
    return "DETReg or JoinDet" if "embed_head" in own else None


def inner_layout(names: Iterable[str]) -> str:
    """The official layout of the detector inside, from names without prefixes."""
    names = list(names)
    for layout, pattern in _INNER.items():
        if any(re.fullmatch(pattern, name) for name in names):
            return layout
    raise UserError(
        "The file holds no decoder of DETR, Conditional DETR or Deformable DETR; fetch it again."
    )


def layout_of(state: Mapping[str, Tensor]) -> str:
    """The official layout of a converted detector, by names of ours."""
    if "encoder.level_embed" in state or any("sampling_offsets" in name for name in state):
        return "deformable_detr"
    return "conditional_detr" if any("query_content" in name for name in state) else "detr"


def object_rows(method: str, state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Of the pretext's class head: "object", which is class 1, and "no object" of a softmax."""
    softmax = method != "detreg" or layout_of(state) == "detr"
    count = len(next(tensor for name, tensor in state.items() if _CLASS.fullmatch(name)))
    return (1, count - 1) if softmax else (1,)


def only_object(method: str, state: State) -> tuple[State, dict[str, str]]:
    """Class heads for the one class of ours, and what happened: name -> sentence."""
    changed: State = dict(state)
    said: dict[str, str] = {}
    if not any(map(_CLASS.fullmatch, state)):
        return changed, said
    rows = object_rows(method, state)
    for name, tensor in state.items():
        if _CLASS.fullmatch(name):
            changed[name] = tensor[list(rows)]
            which = "row 1, the object" + (", and the last, no object" if len(rows) == 2 else "")
            said[name] = f"{which}, of {len(tensor)}"
    return changed, said


def arrange_pretext(state: Mapping[str, Tensor]) -> Arranged:
    """The detector under our names, as far as its tables go, and the pretext's heads beside it."""
    inner = _DETECTORS[layout := inner_layout(state)]
    own = {name: apply_rules(_OWN, name) for name in state if _IS_OWN.match(name)}
    theirs = {name: _as_detector(name, layout) for name in state if name not in own}
    detector: State = {new: state[old] for old, new in theirs.items()}
    whole = _joined(detector) if layout == "deformable_detr" else detector
    if layout == "deformable_detr":
        classes = any(name.startswith("class_embed.") for name in whole)
        heads = arrange_heads(whole, tied=True, classes=classes)
    else:
        heads = Arranged(dict(whole), {name: name for name in whole})
    origin, dropped = {}, {}
    for old, new in theirs.items():
        kept = _SPLIT[0] if new == _SPLIT[1] and new not in whole else new
        if kept in heads.dropped:
            dropped[old] = heads.dropped[kept]
        else:
            origin[old] = inner.to_hub(heads.origin[kept])
    result = {inner.to_hub(name): tensor for name, tensor in heads.state.items()}
    result |= {new: state[old] for old, new in own.items()}
    return Arranged(result, origin | own, dropped)


def _as_detector(name: str, layout: str) -> str:
    """A name of Siamese DETR's repository as the detector's own has it."""
    name = apply_rules(_BACKBONE[:1], name)
    name = re.sub(r"^pred_head\.(class|bbox)_embed\.", r"\1_embed.", name)
    if layout == "deformable_detr":  # one head for all layers, where the detector's files have six
        name = re.sub(r"^(class|bbox)_embed\.(?!\d)", r"\1_embed.0.", name)
    return name


def _joined(state: State) -> State:
    """Deformable DETR's table: the half that is a position, then the content."""
    position, content = (state.get(name) for name in _SPLIT)
    level = state.get("transformer.level_embed")
    half = position is not None and level is not None and position.shape[1] == level.shape[1]
    if position is None and content is not None or half and content is None:
        lost = _SPLIT[0] if position is None else _SPLIT[1]
        raise UserError(f"The file lacks {lost}, half of its query table; fetch it again.")
    if position is None or content is None:
        return state
    if position.shape != content.shape:
        raise UserError(
            f"query_embed.weight is {tuple(position.shape)} and transformer.tgt_embed.weight "
            f"{tuple(content.shape)}, but they are halves of one table; fetch the file again."
        )
    rest = {name: tensor for name, tensor in state.items() if name != _SPLIT[1]}
    return rest | {_SPLIT[0]: torch.cat([position, content], dim=1)}


def _layout(name: str, about: str, marks: tuple[str, ...], lacks: tuple[str, ...] = ()) -> Format:
    return Format(
        name,
        about,
        marks=tuple(PREFIX + mark for mark in (r"transformer\.decoder\.layers\..*", *marks)),
        lacks=tuple(PREFIX + mark for mark in lacks),
        prefix=PREFIX,
        drops=(*LOST_PARTS, (r"pred_head\.criterion\.", "loss weights")),
        renames=_BACKBONE,  # what is not a backbone's has our names when it is arranged
        detector=True,
        arrange=arrange_pretext,
    )


_PATCHES, _PREDICTIONS = r"patch2query\.(weight|bias)", r"pred_head\..*"
_TOP = r"(class_embed|feature_align)\..*"  # of UP-DETR alone, even if some are lost
PRETEXTS = (
    _layout(
        "up_detr",
        "the official UP-DETR before finetuning",
        (_PATCHES, _TOP),
        (_PREDICTIONS, r"class_embed\.\d.*"),
    ),
    _layout(
        "detreg",
        "the official DETReg before finetuning, on Deformable DETR or DETR",
        (r"feature_embed\.layers\.\d+\.(weight|bias)",),
    ),
    _layout(
        "siamese_detr",
        "the official Siamese DETR and its UP-DETR, as trained or as converted there",
        (_PATCHES,),
        (r"class_embed\.(weight|bias)", r"feature_align\..*"),
    ),
)
