"""Make the compact golden files that lie beside this file from a folder of complete ones.

    python tests/golden/compact.py ../shared/golden

Detectors and pretexts keep losses, matches, detections, gradient norms, the last boxes, a few
queries' logits and what proposals are ordered by; images are made anew by the manifest's recipe.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
DETECTORS = (
    "detr_r50",
    "conditional_detr_r50",
    "deformable_detr_r50_single_scale",
    "deformable_detr_r50",
    "deformable_detr_r50_box_refine",
    "deformable_detr_r50_two_stage",
    "dab_deformable_detr_r50",
    "dn_dab_deformable_detr_r50",
    "deta_r50",
    "updetr_pretrain_r50",
    "detreg_deformable_r50",
    "detreg_detr_r50",
)
SIAMESE = (
    "siamese_detr_vanilla_r50",
    "siamese_detr_conditional_r50",
    "siamese_detr_deformable_ms_r50",
)
OPERATORS = (
    "op_common",
    "op_dab_sine",
    "op_deta",
    "op_detr",
    "op_dn_queries",
    "op_tokencut",
    "op_updetr_attention_mask",
    "siamese_detr_box_jitter",
)
LEFT_OUT = (
    r"dbg\.|aux_|anchors$|enc_logits_sub$|dn\.\w+\.dn_logits$|"
    r"crops\.|masked\.(aux_|pred_f)|pred_features_sub$"
)
# these depend on a training step with three images, and the compact file has one
SIAMESE_LEFT_OUT = r"eval\.|train\.|single\.(total_loss|loss\.loss_enc_global)"
MANIFEST_LEFT_OUT = ("arrays", "array_notes", "dbg", "weights_abs_sum", "weight_rule")
QUERIES = 20  # whose logits are kept


def compact_detector(source: Path) -> None:
    """Write the subset of one detector."""
    manifest = json.loads(source.with_suffix(".json").read_text())
    with np.load(source.with_suffix(".npz")) as file:
        arrays = {name: file[name] for name in file if not re.match(LEFT_OUT, name)}
    logits = arrays.pop("pred_logits")
    old, count = manifest["aux_logits_query_stride"], logits.shape[1]
    stride = old * max(1, count // QUERIES // old)
    arrays["pred_logits_sub"] = logits[:, ::stride]
    for name in arrays:
        if name.startswith("dn.") and name.endswith("pred_logits_sub"):
            arrays[name] = arrays[name][:, :: stride // old]
    if "init_reference" in arrays:
        del arrays["enc_boxes"]
    manifest = {k: v for k, v in manifest.items() if k not in MANIFEST_LEFT_OUT}
    manifest["aux_logits_query_stride"] = stride
    manifest["compact"] = f"a subset of the arrays of {source.name}"
    _write(source.name, manifest, arrays)


def compact_siamese(source: Path) -> None:
    """Write what the first image alone gives."""
    manifest = json.loads(source.with_suffix(".json").read_text())
    with np.load(source.with_suffix(".npz")) as file:
        arrays = {name: file[name] for name in file if not re.match(SIAMESE_LEFT_OUT, name)}
    manifest = {k: v for k, v in manifest.items() if k not in (*MANIFEST_LEFT_OUT, "grad_keys")}
    manifest["compact"] = f"a subset of the arrays of {source.name}"
    _write(source.name, manifest, arrays)


def first_views(source: Path) -> None:
    """Write the first image's views, boxes and crops."""
    with np.load(source) as file:
        arrays = {name: file[name] for name in file if name.endswith(".img0")}
        arrays["crops"] = file["crops"][:1]
    np.savez_compressed(HERE / source.name, **arrays)


def copy_operators(source: Path) -> None:
    """Copy one file of operators, which are small."""
    for suffix in (".json", ".npz"):
        shutil.copyfile(source.with_suffix(suffix), HERE / (source.name + suffix))


def _write(name: str, manifest: dict, arrays: dict[str, np.ndarray]) -> None:
    np.savez_compressed(HERE / f"{name}.npz", **arrays)
    text = json.dumps(manifest, separators=(",", ":"))
    (HERE / f"{name}.json").write_text(text + "\n")


def main() -> None:
    """Write all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for name in DETECTORS:
        compact_detector(folder / name)
    for name in SIAMESE:
        compact_siamese(folder / name)
    first_views(folder / "siamese_inputs.npz")
    for name in OPERATORS:
        copy_operators(folder / name)


if __name__ == "__main__":
    main()
