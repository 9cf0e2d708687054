"""DETR, Conditional DETR and Deformable DETR of Hugging Face transformers, towards official names.

Files on the Hub and newer releases of the library differ in names (`out_proj`, `fc1` became
`o_proj`, `mlp.fc1`), and each holds the ResNet in timm's layout or the library's own; all are read.
Separate query, key and value projections are joined, as the official files have them.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from d2_unsupdet.checkpoint.detr_names import (
    CONDITIONAL,
    DEFORMABLE,
    DETR,
    Pairs,
    arrange_heads,
    forward_rules,
)
from d2_unsupdet.checkpoint.layout import Arranged, Format, Rules, apply_rules

_PREFIX = r"(module\.)?"
_BACKBONE = r"^model\.backbone\.(?:conv_encoder\.)?model\."
_STAGE = rf"{_BACKBONE}encoder\.stages\.(\d)\.layers\.(\d+)\."
_NORMS = {"convolution": "conv", "normalization": "bn"}

# towards torchvision's names behind `backbone.0.body.`; the stage's number is raised afterwards
_RESNET: Rules = (
    (rf"{_BACKBONE}embedder\.embedder\.convolution\.", "backbone.0.body.conv1."),
    (rf"{_BACKBONE}embedder\.embedder\.normalization\.", "backbone.0.body.bn1."),
    (rf"{_STAGE}shortcut\.convolution\.", r"backbone.0.body.stage\1.\2.downsample.0."),
    (rf"{_STAGE}shortcut\.normalization\.", r"backbone.0.body.stage\1.\2.downsample.1."),
    *(
        (rf"{_STAGE}layer\.{j}\.{theirs}\.", rf"backbone.0.body.stage\1.\2.{ours}{j + 1}.")
        for j in range(3)
        for theirs, ours in _NORMS.items()
    ),
    *((rf"^backbone\.0\.body\.stage{i}\.", f"backbone.0.body.layer{i + 1}.") for i in range(4)),
    (_BACKBONE, "backbone.0.body."),  # timm's names are torchvision's
)
_OLD_SPELLING: Rules = (
    (r"_attn\.out_proj\.", "_attn.o_proj."),
    (r"(layers\.\d+)\.(fc[12])\.", r"\1.mlp.\2."),
    (r"(layers\.\d+)\.sa_(\w)", r"\1.self_attn.\2"),
    (r"(layers\.\d+)\.ca_(\w)", r"\1.encoder_attn.\2"),
    (r"_attn\.([qk])(content|pos|pos_sine)_proj\.", r"_attn.\1_\2_proj."),
)
_ENC, _DEC = r"^model\.encoder\.layers\.(\d+)\.", r"^model\.decoder\.layers\.(\d+)\."
_OFF_ENC, _OFF_DEC = r"transformer.encoder.layers.\1.", r"transformer.decoder.layers.\1."
_LAYERS: Rules = (
    (_ENC + r"self_attn_layer_norm\.", _OFF_ENC + "norm1."),
    (_ENC + r"final_layer_norm\.", _OFF_ENC + "norm2."),
    (_DEC + r"final_layer_norm\.", _OFF_DEC + "norm3."),
    (r"^model\.((?:en|de)coder\.layers\.\d+)\.mlp\.fc([12])\.", r"transformer.\1.linear\2."),
    (r"^(.*_attn)\.o_proj\.", r"\1.out_proj."),
)
_SELF_FIRST: Rules = (
    (_DEC + r"self_attn_layer_norm\.", _OFF_DEC + "norm1."),
    (_DEC + r"encoder_attn_layer_norm\.", _OFF_DEC + "norm2."),
    (r"^model\.decoder\.layernorm\.", "transformer.decoder.norm."),
)
_CROSS_FIRST: Rules = (
    (_DEC + r"encoder_attn_layer_norm\.", _OFF_DEC + "norm1."),
    (_DEC + r"self_attn_layer_norm\.", _OFF_DEC + "norm2."),
)
_ONE_LEVEL: Rules = (
    (r"^model\.input_projection\.", "input_proj."),
    (r"^class_labels_classifier\.", "class_embed."),
    (r"^bbox_predictor\.", "bbox_embed."),
)
_REST: Rules = (
    (r"^model\.query_position_embeddings\.", "query_embed."),
    (r"^model\.input_proj\.", "input_proj."),
    (r"^model\.", "transformer."),
)
_DETR: Rules = (
    *_LAYERS,
    *_SELF_FIRST,
    *_ONE_LEVEL,
    (_DEC + r"encoder_attn\.", _OFF_DEC + "multihead_attn."),
    *_REST,
)
_CONDITIONAL: Rules = (
    *_LAYERS,
    *_SELF_FIRST,
    *_ONE_LEVEL,
    (_DEC + r"self_attn\.([qkv])_?(content|pos)?_proj\.", _OFF_DEC + r"sa_\2\3_proj."),
    (_DEC + r"encoder_attn\.([qkv])_?(content|pos|pos_sine)?_proj\.", _OFF_DEC + r"ca_\2\3_proj."),
    (_DEC + r"encoder_attn\.", _OFF_DEC + "cross_attn."),
    *_REST,
)
_DEFORMABLE: Rules = (
    *_LAYERS,
    *_CROSS_FIRST,
    (_DEC + r"encoder_attn\.", _OFF_DEC + "cross_attn."),
    *_REST,
)


def join_projections(state: Mapping[str, Tensor]) -> Arranged:
    """`q_proj`, `k_proj`, `v_proj` of one attention become its `in_proj_`, in that order."""
    origin, joined = {}, {}
    for name in state:
        match = re.fullmatch(r"(.*_attn)\.([qkv])_proj\.(weight|bias)", name)
        thirds = [f"{match[1]}.{part}_proj.{match[3]}" for part in "qkv"] if match else []
        if match and all(third in state for third in thirds):
            origin[name] = f"{match[1]}.in_proj_{match[3]}"
            if match[2] == "q":
                joined[origin[name]] = torch.cat([state[third] for third in thirds])
        else:
            origin[name] = name
            joined[name] = state[name]
    return Arranged(joined, origin)


def _arrange(rules: Rules, pairs: Pairs, state: Mapping[str, Tensor]) -> Arranged:
    """Official names, each tensor once."""
    whole = join_projections({apply_rules(_OLD_SPELLING, n): t for n, t in state.items()})
    spelled = {name: apply_rules(_OLD_SPELLING, name) for name in state}
    official = {name: apply_rules(_RESNET + rules, name) for name in whole.state}
    renamed = {new: whole.state[old] for old, new in official.items()}
    if pairs is DEFORMABLE:
        heads = arrange_heads(renamed, tied=True)
    else:
        heads = Arranged(renamed, {new: new for new in renamed})
    names = {name: official[whole.origin[new]] for name, new in spelled.items()}
    return Arranged(
        heads.state,
        {name: heads.origin[new] for name, new in names.items() if new in heads.origin},
        {name: heads.dropped[new] for name, new in names.items() if new in heads.dropped},
    )


def _format(name: str, title: str, rules: Rules, pairs: Pairs, marks: Iterable[str]) -> Format:
    return Format(
        f"hf_{name}",
        f"{title} of Hugging Face transformers",
        marks=tuple(_PREFIX + mark for mark in marks),
        prefix=_PREFIX,
        drops=(
            (r"(bbox_attention|mask_head)\.", "segmentation head"),
            (r".*num_batches_tracked$", "step counters"),
        ),
        renames=(*_RESNET, *forward_rules(pairs)),
        detector=True,
        arrange=lambda state: _arrange(rules, pairs, state),
    )


_DECODER = r"model\.decoder\.layers\.\d+"

HUGGING_FACE = (
    _format(
        "detr",
        "DETR",
        _DETR,
        DETR,
        [rf"{_DECODER}\.encoder_attn\.k_proj\.(weight|bias)"],
    ),
    _format(
        "conditional_detr",
        "Conditional DETR",
        _CONDITIONAL,
        CONDITIONAL,
        [
            rf"{_DECODER}\.(self_attn\.q_content|sa_qcontent)_proj\.(weight|bias)",
        ],
    ),
    _format(
        "deformable_detr",
        "Deformable DETR",
        _DEFORMABLE,
        DEFORMABLE,
        [rf"{_DECODER}\.encoder_attn\.sampling_offsets\.(weight|bias)"],
    ),
)
