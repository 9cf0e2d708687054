"""The model that a golden file was made with: our config with the sizes of its manifest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig, instantiate
from torch import nn

import d2_unsupdet
from d2_unsupdet.checkpoint import convert, detect
from d2_unsupdet.detectors import DETR, OverlapAssigner
from d2_unsupdet.errors import UserError
from d2_unsupdet.parity.golden import Golden
from d2_unsupdet.parity.rule import State, digest, official_state

CONFIGS = Path(d2_unsupdet.__file__).parents[1] / "configs" / "common" / "models"

# official repositories; all but the last four are those of detectors
REPOSITORIES = (
    "facebookresearch/detr",
    "Atten4Vis/ConditionalDETR",
    "fundamentalvision/Deformable-DETR",
    "IDEA-Research/DAB-DETR",
    "IDEA-Research/DN-DETR",
    "jozhang97/DETA",
    "dddzg/up-detr",
    "amirbar/DETReg",
    "Zx55/SiameseDETR",
    "YangtaoWANG95/TokenCut",
)


def is_detector(golden: Golden) -> bool:
    """Whether the file holds the outputs of a whole detector."""
    return "pred_boxes" in golden.arrays


def is_known(golden: Golden) -> bool:
    """Whether the file comes from a repository of this family."""
    return golden.repository.endswith(REPOSITORIES)


def build(golden: Golden, configs: Path = CONFIGS) -> tuple[DETR, dict[str, str]]:
    """The model with the golden weights, in eval mode, and official name -> name of ours."""
    official = official_state(golden.manifest)
    expected = golden.manifest.get("weights_sha256")
    if expected and digest(official) != expected:
        raise UserError(f"The weights of {golden.name} have another hash than its manifest states.")
    layout = detect(official).name
    model = instantiate(_config(layout, golden, official, configs))
    state, report = convert(official, layout)
    model.load_state_dict(state)  # strict
    _as_original(model)
    return model.eval(), report.names


def _config(layout: str, golden: Golden, official: State, configs: Path) -> Any:
    model = detector_config(layout, golden.manifest["config"], configs)
    rows = next(len(t) for n, t in official.items() if n.endswith("class_embed.weight") or
                n.endswith("class_embed.0.weight"))  # fmt: skip
    model.heads.num_classes = rows - bool(model.heads.get("background", False))
    if "proposals" in model:
        model.proposals.score_channels = rows
    return model


def detector_config(layout: str, said: Mapping[str, Any], configs: Path = CONFIGS) -> Any:
    """Our config of an official layout with the sizes that a manifest's `config` states."""
    model = LazyConfig.load(str(configs / f"{_variant(layout, said)}.py")).model
    model.backbone.stages.depth = int(said["backbone"].removeprefix("resnet"))
    model.backbone.stages.dilated = said["dilation"]
    model.encoder.dim, model.encoder.heads = said["hidden_dim"], said["nheads"]
    model.encoder.num_layers, model.decoder.num_layers = said["enc_layers"], said["dec_layers"]
    model.encoder.ffn_dim = said["dim_feedforward"]
    if layout == "detr":
        model.encoder.pre_norm = said["pre_norm"]
    if "num_feature_levels" in said:
        model.encoder.levels = said["num_feature_levels"]
        model.encoder.points, model.decoder.points = said["enc_n_points"], said["dec_n_points"]
    if "proposals" in model:
        model.proposals.num_proposals = said["num_queries"]
    else:
        model.query_source.num_queries = said["num_queries"]
    return model


def _variant(layout: str, said: Any) -> str:
    if layout != "deformable_detr":
        return layout
    if said.get("two_stage"):
        return "deformable_detr_two_stage"
    if said.get("with_box_refine"):
        return "deformable_detr_refine"
    return layout if said["num_feature_levels"] > 1 else "deformable_detr_single_scale"


def _as_original(model: DETR) -> None:
    """What we do better than the originals is off where their numbers are the measure."""
    criterion = model.criterion
    criterion.ignore_padding = False
    for assigner in (criterion.assigner, criterion.encoder_assigner):
        if isinstance(assigner, OverlapAssigner):
            assigner.unique, assigner.zero_overlap = False, "original"
    if model.proposals is not None:
        model.proposals.ignore_padding = False
    denoising = getattr(model.query_source, "denoising", None)
    if isinstance(denoising, nn.Module):
        denoising.label_noise = denoising.box_noise = 0.0  # type: ignore[assignment]
