"""The names of the official DETR-family files, and their repeated tensors.

One pair (theirs, ours) serves both directions. The surprise: `norm1` of a decoder layer follows
self-attention in DETR and Conditional DETR, but cross-attention in all deformable ones.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from d2_unsupdet.checkpoint.layout import Arranged, Format, Rules, State
from d2_unsupdet.errors import UserError

Pairs = tuple[tuple[str, str], ...]  # starts of names; * is a number

PREFIX = r"(module\.)?(detr\.)?"
LOST_PARTS: Rules = (
    (r"(bbox_attention|mask_head)\.", "segmentation head"),
    (r"criterion\.", "loss weights"),
    (r".*total_(ops|params)$", "counters of a profiler"),
)
# heads that only pretraining has: with them it is a file of pretext_names.py
OF_PRETEXTS = (r"patch2query\.(weight|bias)", r"pred_head\..*", r"feature_embed\..*")
_LAST = r"(?=\.|$)"
_HEADS = {
    "class": ("weight", "bias"),
    "bbox": tuple(f"layers.{i}.{part}" for i in range(3) for part in ("weight", "bias")),
}

_ENC, _DEC = "transformer.encoder.layers.*", "transformer.decoder.layers.*"
_OUR_ENC, _OUR_DEC = "encoder.layers.*", "decoder.layers.*"
_TRANSFORMER: Pairs = (
    (f"{_ENC}.norm1", f"{_OUR_ENC}.norm_self"),
    (f"{_ENC}.norm2", f"{_OUR_ENC}.norm_ffn"),
    (f"{_DEC}.norm3", f"{_OUR_DEC}.norm_ffn"),
    *(
        (f"{theirs}.linear{i}", f"{ours}.ffn.linear{i}")
        for theirs, ours in ((_ENC, _OUR_ENC), (_DEC, _OUR_DEC))
        for i in (1, 2)
    ),
)
_SELF_FIRST: Pairs = (
    (f"{_DEC}.norm1", f"{_OUR_DEC}.norm_self"),
    (f"{_DEC}.norm2", f"{_OUR_DEC}.norm_cross"),
)
_CROSS_FIRST: Pairs = (
    (f"{_DEC}.norm1", f"{_OUR_DEC}.norm_cross"),
    (f"{_DEC}.norm2", f"{_OUR_DEC}.norm_self"),
)
_REST: Pairs = (  # behind everything that names a part of them
    ("transformer.encoder", "encoder"),
    ("transformer.decoder", "decoder"),
)
_ONE_LEVEL: Pairs = (
    ("input_proj", "neck.levels.0.conv"),
    ("query_embed", "query_source.embed"),
    ("class_embed", "heads.classes.0"),
    ("bbox_embed", "heads.boxes.0"),
)
DETR: Pairs = (
    *_TRANSFORMER,
    *_SELF_FIRST,
    (f"{_DEC}.multihead_attn", f"{_OUR_DEC}.cross_attn"),
    *_ONE_LEVEL,
    *_REST,
)
_CONDITIONAL_ATTENTION = {
    "qcontent": "query_content",
    "qpos": "query_position",
    "kcontent": "key_content",
    "kpos": "key_position",
    "v": "value",
    "qpos_sine": "query_sine",
}
CONDITIONAL: Pairs = (
    *_TRANSFORMER,
    *_SELF_FIRST,
    *(
        (f"{_DEC}.{short}_{theirs}_proj", f"{_OUR_DEC}.{attention}.{ours}")
        for short, attention in (("sa", "self_attn"), ("ca", "cross_attn"))
        for theirs, ours in _CONDITIONAL_ATTENTION.items()
    ),
    ("transformer.decoder.query_scale", "decoder.position.scale"),
    ("transformer.decoder.ref_point_head", "query_source.reference"),
    *_ONE_LEVEL,
    *_REST,
)
# `enc_class_embed` and `enc_bbox_embed` are names of ours for the last of the seven heads
DEFORMABLE: Pairs = (
    *_TRANSFORMER,
    *_CROSS_FIRST,
    ("input_proj.*.0", "neck.levels.*.conv"),
    ("input_proj.*.1", "neck.levels.*.norm"),
    ("transformer.level_embed", "encoder.level_embed"),
    ("query_embed", "query_source.embed"),
    ("transformer.reference_points", "query_source.reference"),
    ("tgt_embed", "query_source.content"),
    ("refpoint_embed", "query_source.anchors"),
    ("label_enc", "query_source.denoising.labels"),
    ("transformer.decoder.query_scale", "decoder.position.scale"),
    ("transformer.decoder.ref_point_head", "decoder.position.project"),
    ("transformer.enc_output", "proposals.project"),
    ("transformer.enc_output_norm", "proposals.norm"),
    ("transformer.pos_trans", "query_source.position_proj"),
    ("transformer.pos_trans_norm", "query_source.position_norm"),
    ("transformer.pix_trans", "query_source.content_proj"),
    ("transformer.pix_trans_norm", "query_source.content_norm"),
    ("enc_class_embed", "proposals.classes"),
    ("enc_bbox_embed", "proposals.boxes"),
    ("class_embed", "heads.classes"),
    ("bbox_embed", "heads.boxes"),
    *_REST,
)
BACKBONE: Rules = (
    (r"^backbone\.0\.backbone\.", "backbone."),  # DETR's own wrapper for Detectron2
    (r"^backbone\.0\.body\.(?!layer\d)", "backbone.stem."),
    *((rf"^backbone\.0\.body\.layer{i}\.", rf"backbone.res{i + 1}.") for i in range(1, 5)),
    (r"^(backbone\..*)\bbn(\d)\.", r"\1conv\2.norm."),
    (r"^(backbone\..*)\bdownsample\.0\.", r"\1shortcut."),
    (r"^(backbone\..*)\bdownsample\.1\.", r"\1shortcut.norm."),
)
_BACKBONE_BACK: Rules = (
    (r"^(backbone\..*)\bshortcut\.norm\.", r"\1downsample.1."),
    (r"^(backbone\..*)\bshortcut\.", r"\1downsample.0."),
    (r"^(backbone\..*)\bconv(\d)\.norm\.", r"\1bn\2."),
    (r"^backbone\.stem\.", "backbone.0.body."),
    *((rf"^backbone\.res{i + 1}\.", rf"backbone.0.body.layer{i}.") for i in range(1, 5)),
)


def forward_rules(pairs: Pairs) -> Rules:
    """Their names to ours."""
    return BACKBONE + tuple(_rule(theirs, ours) for theirs, ours in pairs)


def backward_rules(pairs: Pairs) -> Rules:
    """Our names to theirs."""
    return _BACKBONE_BACK + tuple(_rule(ours, theirs) for theirs, ours in pairs)


def _rule(start: str, other: str) -> tuple[str, str]:
    assert start.count("*") == other.count("*") <= 1 or "*" not in start + other, (start, other)
    pattern = re.escape(start).replace(r"\*", r"(\d+)")
    return rf"^{pattern}{_LAST}", other.replace("*", r"\1")


def arrange_heads(
    state: Mapping[str, Tensor], *, tied: bool = False, classes: bool = True
) -> Arranged:
    """Each head once: copies under the decoder go, and so do repetitions of one shared head.

    Args:
        tied: a head that all layers share may be there once, as safetensors files leave it.
        classes: there are class heads.
    """
    moves: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for name in state:
        top = re.sub(r"^transformer\.decoder\.(class|bbox)_embed", r"\1_embed", name)
        if top != name and top in state:
            _check_second_name(state, top, name)
            dropped[name] = "second names of the heads"
        else:
            moves[name] = top
    layers = 1 + max(_numbers(r"transformer\.decoder\.layers\.(\d+)\.", state), default=-1)
    two_stage = any(re.match(r"transformer\.(enc_output|pos_trans)", name) for name in state)
    alone = tied and not two_stage and not _refined(state)
    kinds = ("class", "bbox") if classes else ("bbox",)
    _check_heads(moves.values(), layers, kinds, two_stage=two_stage, alone=alone)
    if two_stage:
        moves = {old: _encoder_head(new, layers) for old, new in moves.items()}
    elif _shared(state, moves):
        repeated = [n for n, new in moves.items() if re.match(r"(class|bbox)_embed\.[1-9]", new)]
        dropped |= dict.fromkeys(repeated, "the one head of all layers, repeated")
        moves = {old: new for old, new in moves.items() if old not in dropped}
    return Arranged({new: state[old] for old, new in moves.items()}, moves, dropped)


def restore_heads(state: State) -> State:
    """The names that official files hold twice or six times, from a state with each head once."""
    layers = 1 + max(_numbers(r"transformer\.decoder\.layers\.(\d+)\.", state))
    heads = {n: t for n, t in state.items() if re.match(r"(class|bbox)_embed\.", n)}
    two_stage = "enc_class_embed.weight" in state
    if _head_count(heads) == 1 and not two_stage and layers > 1:
        for name, tensor in heads.items():
            for layer in range(1, layers):
                state[name.replace("_embed.0.", f"_embed.{layer}.")] = tensor
        return state
    if two_stage:
        _check_same_classes(state)
        last = rf"\1_embed.{layers}."
        named = {re.sub(r"^enc_(class|bbox)_embed\.", last, n): t for n, t in state.items()}
        state.clear()
        state.update(named)
    copied = r"(class|bbox)_embed\." if two_stage else r"bbox_embed\."
    for name in [n for n in state if re.match(copied, n)]:
        state[f"transformer.decoder.{name}"] = state[name]
    return state


def official_name(layout: Format, state: Mapping[str, Tensor], name: str) -> str:
    """What an official file calls a tensor of ours; ours where nothing is written in a layout."""
    if layout.back is None:
        return name
    last = 1 + max(_numbers(r"decoder\.layers\.(\d+)\.", state), default=-1)
    return re.sub(r"^enc_(class|bbox)_embed\.", rf"\1_embed.{last}.", layout.from_hub(name))


def _check_second_name(state: Mapping[str, Tensor], first: str, second: str) -> None:
    """Both are one tensor wherever the official code wrote the file."""
    if not torch.equal(state[first], state[second]):
        raise UserError(
            f"The file holds two values of one tensor, {first} and {second}: remove the one that "
            "is not meant, or fetch it again."
        )


def _check_heads(
    names: Iterable[str], layers: int, kinds: Iterable[str], *, two_stage: bool, alone: bool
) -> None:
    """One for each decoder layer, and in two-stage files one more for the encoder stage."""
    names = set(names)
    found = {kind: set(_numbers(rf"{kind}_embed\.(\d+)\.", names)) for kind in kinds}
    single = alone and all(indices == {0} for indices in found.values())
    count = 1 if single else layers + two_stage
    place = f"a decoder of {layers} layers" + (" behind an encoder stage" if two_stage else "")
    for kind in found:
        leaves = _HEADS[kind]
        for index in range(count):
            head = f"{kind}_embed.{index}"
            lost = [head] if index not in found[kind] else []
            lost += [f"{head}.{leaf}" for leaf in leaves if f"{head}.{leaf}" not in names]
            if lost:
                raise UserError(f"The file lacks {lost[0]}, a head of {place}; fetch it again.")
        if more := sorted(found[kind] - set(range(count))):
            raise UserError(
                f"{kind}_embed.{more[0]} has no place at {place}: the file lacks layers; fetch it "
                "again."
            )


def _encoder_head(name: str, last: int) -> str:
    return re.sub(rf"^(class|bbox)_embed\.{last}\.", r"enc_\1_embed.", name)


def _head_count(names: Iterable[str]) -> int:
    return 1 + max(_numbers(r"bbox_embed\.(\d+)\.", names), default=0)


def _numbers(pattern: str, names: Iterable[str]) -> list[int]:
    return [int(match[1]) for name in names if (match := re.match(pattern, name))]


def _refined(state: Iterable[str]) -> bool:
    """Models that refine boxes have a second name for each box head."""
    return any(name.startswith("transformer.decoder.bbox_embed.") for name in state)


def _shared(state: Mapping[str, Tensor], moves: Mapping[str, str]) -> bool:
    """Where no second name tells, the values decide."""
    if _refined(state):
        return False
    heads = {new: state[old] for old, new in moves.items() if re.match(r"(class|bbox)_em", new)}
    first = {name: re.sub(r"_embed\.\d+\.", "_embed.0.", name) for name in heads}
    return all(
        first[name] in heads and torch.equal(heads[name], heads[first[name]]) for name in heads
    )


def _check_same_classes(state: State) -> None:
    encoder = len(state["enc_class_embed.weight"])
    if "class_embed.0.weight" not in state:
        raise UserError(
            "The encoder stage has class outputs and the decoder has none: nothing can be written "
            "without inventing weights."
        )
    decoder = len(state["class_embed.0.weight"])
    if encoder != decoder:
        raise UserError(
            f"The encoder stage has {encoder} class outputs and the decoder {decoder}, but "
            "official files have one number for both: nothing can be written without inventing "
            "weights."
        )


def _official(name: str, about: str, pairs: Pairs, marks: str, lacks: str = "") -> Format:
    deformable = pairs is DEFORMABLE
    return Format(
        name,
        about,
        marks=tuple(PREFIX + mark for mark in marks.split()),
        lacks=tuple(PREFIX + mark for mark in (*lacks.split(), *OF_PRETEXTS)),
        prefix=PREFIX,
        drops=LOST_PARTS,
        renames=forward_rules(pairs),
        back=backward_rules(pairs),
        detector=True,
        arrange=arrange_heads if deformable else None,
        restore=restore_heads if deformable else None,
    )


# any one of several tensors, so that a file that lost some is still known, and told what it lacks
_DECODER = r"transformer\.decoder\.layers\.\d+"
_SAMPLING = rf"{_DECODER}\.cross_attn\.sampling_offsets\.(weight|bias)"
_ANCHORS = r"(tgt_embed|refpoint_embed)\.weight"
_TOKENS = r"transformer\.pix_trans(_norm)?\.(weight|bias)"

OFFICIAL = (
    _official(
        "detr",
        "the official DETR",
        DETR,
        rf"{_DECODER}\.multihead_attn\.in_proj_(weight|bias)",
    ),
    _official(
        "conditional_detr",
        "the official Conditional DETR",
        CONDITIONAL,
        rf"{_DECODER}\.sa_qcontent_proj\.(weight|bias)",
    ),
    _official(
        "deformable_detr",
        "the official Deformable DETR, also single-scale, refined, two-stage",
        DEFORMABLE,
        _SAMPLING,
        rf"{_ANCHORS} {_TOKENS} label_enc\.weight",
    ),
    _official(
        "dab_deformable_detr",
        "the official DAB-Deformable-DETR",
        DEFORMABLE,
        rf"{_SAMPLING} {_ANCHORS}",
        r"label_enc\.weight",
    ),
    _official(
        "dn_dab_deformable_detr",
        "the official DN-DAB-Deformable-DETR",
        DEFORMABLE,
        rf"{_SAMPLING} label_enc\.weight",
    ),
    _official(
        "deta",
        "the official DETA, also its baseline without overlap assignment",
        DEFORMABLE,
        rf"{_SAMPLING} {_TOKENS}",
    ),
)
