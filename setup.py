"""Metadata and extras. Imports nothing but setuptools and compiles nothing.

Detectron2 is missing from the requirements because PyPI has no project of that name: after
`pip install`, run `python -m d2_unsupdet.install_detectron2` (or build the official one yourself).
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
PACKAGE = (ROOT / "d2_unsupdet" / "__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'^__version__ = "(.+)"$', PACKAGE, re.MULTILINE)
README = ROOT / "README.md"

EXTRAS = {
    "fast-eval": ["faster-coco-eval>=1.6"],  # COCO scores about five times faster, same numbers
    "probes": ["scikit-learn>=1.3"],  # SVM and linear probes
    "figures": ["matplotlib>=3.7"],
    "tensorboard": ["tensorboard>=2.12"],
    "wandb": ["wandb>=0.16"],
    "slurm": ["submitit>=1.4"],  # boxes of a data set as an array of jobs
    "cityscapes": ["cityscapesscripts>=2.2"],  # the official Cityscapes scores
    "onnx": ["onnx>=1.17", "onnxscript>=0.2", "onnxruntime>=1.20"],  # tools/export_onnx.py
    "hub": ["huggingface_hub>=0.25"],  # weights by the name of a repository
}

setup(
    name="d2_unsupdet",
    version=VERSION.group(1) if VERSION else "0",
    description="Pretrain object detectors without labels, on top of Detectron2",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["d2_unsupdet", "d2_unsupdet.*"]),
    package_data={
        "d2_unsupdet.analysis": ["page/*"],  # of the report
        "d2_unsupdet.protocols": ["tables/*"],  # rows of the papers
    },
    python_requires=">=3.11",
    # Lower bounds: torch 2.4 is the oldest we support, torchvision its sibling, NumPy the first
    # release for Python 3.11. One OpenCV wheel only: two of them overwrite each other's files.
    install_requires=[
        "fvcore>=0.1.5",
        "numpy>=1.23.2",
        "opencv-contrib-python-headless>=4.7",
        "pycocotools>=2.0.7",
        "safetensors>=0.4",
        "scipy>=1.10",
        "torch>=2.4",
        "torchvision>=0.19",
    ],
    extras_require={
        **EXTRAS,
        # what `make setup` installs: the tools, and the extras that our own tests cover
        "dev": [
            *EXTRAS["fast-eval"],
            *EXTRAS["probes"],
            *EXTRAS["figures"],
            *EXTRAS["tensorboard"],
            *EXTRAS["cityscapes"],
            *EXTRAS["onnx"],
            *EXTRAS["hub"],
            "mypy",
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            # what weights are converted from: answers are compared with theirs
            "timm>=1.0",
            "transformers>=5.0",
        ],
    },
)
