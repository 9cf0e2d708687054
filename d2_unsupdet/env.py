"""`python -m d2_unsupdet.env`: what is installed, on which devices, and what is missing for what.

Starts without torch and Detectron2, since it is there to explain why they do not work: versions
come from the packages' metadata, and each import it tries is allowed to fail.
"""

import importlib
import importlib.util
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from d2_unsupdet import __version__
from d2_unsupdet.availability import INSTALL_COMMAND, is_installed, version_of
from d2_unsupdet.cli import Parser, run_tool

PACKAGES = (
    "torch", "torchvision", "detectron2", "fvcore", "iopath", "omegaconf", "hydra-core",
    "pycocotools", "faster-coco-eval", "numpy", "scipy", "pillow", "safetensors",
    "scikit-learn", "matplotlib", "tensorboard", "wandb", "cityscapesscripts", "triton",
)  # fmt: skip
OPENCV_WHEELS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


@dataclass(frozen=True)
class Feature:
    """What a user can do when `module` is there, and the command that gets it."""

    name: str
    module: str
    command: str


FEATURES = (
    Feature("training and evaluation", "torch", "pip install torch torchvision"),
    Feature("every model", "torchvision", "pip install torch torchvision"),
    Feature("every model", "detectron2", INSTALL_COMMAND),
    Feature("every model", "fvcore", "pip install fvcore"),
    Feature("COCO data and scores", "pycocotools", "pip install pycocotools"),
    Feature("reading images", "cv2", "pip install opencv-contrib-python-headless"),
    Feature("matching and eigenvectors", "scipy", "pip install scipy"),
    Feature("exported weights", "safetensors", "pip install safetensors"),
    Feature("faster COCO scores", "faster_coco_eval", "pip install faster-coco-eval"),
    Feature("linear and SVM probes", "sklearn", "pip install scikit-learn"),
    Feature("figures", "matplotlib", "pip install matplotlib"),
    Feature("TensorBoard curves", "tensorboard", "pip install tensorboard"),
    Feature("Weights & Biases logging", "wandb", "pip install wandb"),
    Feature("arrays of Slurm jobs", "submitit", "pip install submitit"),
    Feature("official Cityscapes scores", "cityscapesscripts", "pip install cityscapesscripts"),
    Feature("detectors as ONNX files", "onnxscript", "pip install onnx onnxscript onnxruntime"),
    Feature("weights from the Hugging Face hub", "huggingface_hub", "pip install huggingface_hub"),
)


def summary() -> dict[str, Any]:
    """Everything the report prints, ready for JSON. Imports torch and Detectron2 where it can."""
    warnings = _opencv_warnings(wheels := opencv_wheels())
    devices = _devices(warnings)
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": f"{platform.platform()}, {os.cpu_count()} CPU cores",
        "packages": {"d2_unsupdet": __version__} | {name: version_of(name) for name in PACKAGES},
        "opencv_wheels": wheels,
        "detectron2": _detectron2(warnings),
        "devices": devices,
        "missing": [vars(feature) for feature in missing_features()],
        "warnings": warnings,
    }


def opencv_wheels() -> dict[str, str]:
    """Version of each OpenCV wheel that is installed; more than one overwrite each other."""
    found = {name: version_of(name) for name in OPENCV_WHEELS}
    return {name: version for name, version in found.items() if version is not None}


def missing_features() -> list[Feature]:
    """The features whose package is not installed."""
    return [feature for feature in FEATURES if not is_installed(feature.module)]


def _opencv_warnings(wheels: dict[str, str]) -> list[str]:
    if len(wheels) > 1:
        return [
            f"{len(wheels)} OpenCV wheels overwrite each other's files ({', '.join(wheels)}): run "
            f"`pip uninstall --yes {' '.join(wheels)}` and then "
            "`pip install opencv-contrib-python-headless`."
        ]
    if wheels and not any("contrib" in name for name in wheels):
        return [
            f"{next(iter(wheels))} has no selective search and no edge boxes: for those proposals "
            f"run `pip uninstall --yes {next(iter(wheels))}` and then "
            "`pip install opencv-contrib-python-headless`."
        ]
    return []


def _try_import(module: str, warnings: list[str]) -> Any:
    """The module, or None with a warning when it is installed but broken."""
    if not is_installed(module):
        return None
    try:
        return importlib.import_module(module)
    except Exception as error:  # a broken binary raises anything, and is what we want to report
        lines = str(error).strip().splitlines() or [""]
        warnings.append(f"{module} does not import: {type(error).__name__}: {lines[0]}")
        return None


def _devices(warnings: list[str]) -> list[str]:
    torch = _try_import("torch", warnings)
    if torch is None:
        return []
    _try_import("torchvision", warnings)  # says so when it is not built for this torch
    devices = [f"cpu: {torch.get_num_threads()} threads"]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        capability = f"compute {properties.major}.{properties.minor}"
        devices.append(f"cuda:{index}: {properties.name}, {memory:.0f} GiB, {capability}")
    mps = getattr(torch.backends, "mps", None)
    return [*devices, "mps"] if mps is not None and mps.is_available() else devices


def _detectron2(warnings: list[str]) -> str | None:
    if not is_installed("detectron2"):
        return None
    spec = importlib.util.find_spec("detectron2")
    places = list(spec.submodule_search_locations or []) if spec else []
    compiled = any(
        entry.startswith("_C.") and entry.endswith((".so", ".pyd"))
        for place in places
        for entry in os.listdir(place)
    )
    module = _try_import("detectron2", warnings)
    version = getattr(module, "__version__", None) or version_of("detectron2")
    kind = "with compiled operators" if compiled else "pure Python"
    return f"{version}, {kind}, in {places[0] if places else '?'}"


def format_summary(facts: dict[str, Any]) -> str:
    """The report for people: one line a fact, then what is missing, then the warnings."""
    rows = [("Python", facts["python"]), ("Platform", facts["platform"])]
    versions = facts["packages"] | {"detectron2": facts["detectron2"]}
    rows += [(name, version or "-") for name, version in versions.items()]
    wheels = [f"{name} {version}" for name, version in facts["opencv_wheels"].items()]
    rows.append(("OpenCV wheels", ", ".join(wheels) or "-"))
    rows += [("device", device) for device in facts["devices"]]
    lines = [f"{name:<18} {value}" for name, value in rows]
    for feature in facts["missing"]:
        lines.append(f"missing for {feature['name']}: {feature['command']}")
    return "\n".join([*lines, *(f"WARNING: {warning}" for warning in facts["warnings"])])


def main(argv: Sequence[str] | None = None) -> None:
    """Print the report: to explain a broken installation is not a failure."""
    Parser(prog="python -m d2_unsupdet.env", description=__doc__).parse_args(argv)
    print(format_summary(summary()))


if __name__ == "__main__":
    run_tool(main)
