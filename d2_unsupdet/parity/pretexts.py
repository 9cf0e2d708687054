"""Run a box pretext on a golden file's inputs: what all of the three methods share.

Pictures are normalised already, so the model's own normalisation is switched off.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from torch import Tensor, nn

from d2_unsupdet.checkpoint import convert, detect
from d2_unsupdet.checkpoint.convert import PRETEXT
from d2_unsupdet.checkpoint.pretext_names import inner_layout
from d2_unsupdet.detectors.structures import Decoded, Encoded, Matches, Queries
from d2_unsupdet.errors import UserError
from d2_unsupdet.metrics import drain_metrics
from d2_unsupdet.parity.build import CONFIGS, detector_config
from d2_unsupdet.parity.golden import Golden
from d2_unsupdet.parity.rule import digest, official_state
from d2_unsupdet.pretext.box_pretext import BoxPretext

Losses = dict[str, Tensor]
_OFFICIAL = {"loss_embedding": "loss_object_embedding", "loss_global": "loss_enc_global_contra"}


@dataclass
class Pass:
    """What the parts of a pretext gave while it computed its losses."""

    losses: Losses
    logged: Losses
    encoded: Encoded
    queries: Queries
    decoded: Decoded
    matches: Matches
    seen: dict[str, list[Tensor]] = field(default_factory=dict)  # outputs of heads, by attribute

    @property
    def total(self) -> Tensor:
        return sum(self.losses.values(), start=torch.zeros(()))


def is_pretext(golden: Golden) -> bool:
    """Whether the file holds what a whole pretraining model computed."""
    names = golden.manifest.get("state_dict", {})
    return bool(names.keys() & {"patch2query.weight", "feature_embed.layers.0.weight"})


def build_pretext(
    golden: Golden, configs: Path = CONFIGS, **overrides: Any
) -> tuple[Any, dict[str, str]]:
    """The pretext with the golden weights, in eval mode, and official name -> name of ours.

    Args:
        overrides: of the pretext's node in the config.
    """
    official = official_state(golden.manifest)
    expected = golden.manifest.get("weights_sha256")
    if expected and digest(official) != expected:
        raise UserError(f"The weights of {golden.name} have another hash than its manifest states.")
    method, said = detect(official).name, _said(golden)
    rows = next(len(t) for n, t in official.items() if "class_embed" in n)
    detector = detector_config(inner_layout(official), said, configs)
    detector.encoder.dropout = 0.0
    detector.position.half_cell = method == "detreg"  # the others add no half cell anywhere
    detector.pixel_mean, detector.pixel_std = [0.0] * 3, [1.0] * 3
    node = LazyConfig.load(str(configs / f"{method}.py"), method)(detector)
    node.detector.heads.num_classes = rows - bool(node.detector.heads.background)
    node.label = 1
    node.update(overrides)
    model = instantiate(node)
    state, report = convert(official, method, PRETEXT)
    model.load_state_dict(state, strict=False)
    _check_all_taken(model, state)
    return model.eval(), report.names


def _check_all_taken(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}
    if apart := sorted(own ^ state.keys()):
        raise UserError(f"Names differ from those of the converted file: {', '.join(apart[:4])}.")


def _said(golden: Golden) -> dict[str, Any]:
    """Sizes under the names that the detectors' repositories have."""
    said = dict(golden.manifest["config"])
    if "model" not in said or isinstance(said["model"], str):
        if said.get("model") == "detr":
            del said["num_feature_levels"]  # set for the other detector, unused here
        return said
    model, part = said["model"], said["model"]["transformer"]
    return {
        "backbone": f"resnet{model['backbone']['depth']}",
        "dilation": False,
        "hidden_dim": model["hidden_dim"],
        "nheads": part["nhead"],
        "enc_layers": part["num_encoder_layers"],
        "dec_layers": part["num_decoder_layers"],
        "dim_feedforward": part["dim_feedforward"],
        "pre_norm": part.get("normalize_before", False),
        "num_queries": model["num_queries"],
        **{k: part[k] for k in ("num_feature_levels", "enc_n_points", "dec_n_points") if k in part},
    }


def run_losses(model: BoxPretext, batch: list[dict[str, Any]]) -> Pass:
    """The losses of a batch as in training, and what the model's parts gave on the way."""
    drain_metrics()
    with _watched(model) as seen:
        losses = model.losses(batch)
    (encoded,), (queries,), (decoded,) = (seen.pop(n) for n in ("encoder", "queries", "decoder"))
    ((_, matches),) = seen.pop("criterion")
    return Pass(losses, drain_metrics(), encoded, queries, decoded, matches, seen)


@contextmanager
def _watched(model: BoxPretext) -> Iterator[dict[str, list[Any]]]:
    detector = model.detector
    seen: dict[str, list[Any]] = {}
    parts: dict[str, Any] = {
        "encoder": detector.encoder,
        "queries": detector.query_source,
        "decoder": detector.decoder,
        "criterion": detector.criterion,
        **{n: getattr(model, n, None) for n in ("patch2query", "projector", "predictor")},
    }
    hooks = [
        part.register_forward_hook(_keeper(seen.setdefault(name, [])))
        for name, part in parts.items()
        if part is not None
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def _keeper(kept: list[Any]) -> Callable[..., None]:
    def keep(module: nn.Module, inputs: object, output: Any) -> None:
        kept.append(output)

    return keep


def unweighted(model: Any, losses: Losses) -> Losses:
    """Under the official names."""
    weights = dict(model.detector.criterion.weights)
    for name in ("feature", "embedding", "global"):
        weights[name] = getattr(model, f"{name}_weight", 1.0)
    return {_OFFICIAL.get(n, n): v / weights[n.split("_")[1]] for n, v in losses.items()}
