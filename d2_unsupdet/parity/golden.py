"""A golden file: what an official implementation computed, and the manifest to repeat it."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import ImageList
from torch import Tensor

from d2_unsupdet.detectors.structures import Target
from d2_unsupdet.errors import UserError


@dataclass(frozen=True)
class Golden:
    """`<name>.json` and `<name>.npz`.

    Args:
        path: of the manifest.
        manifest: repository, configuration, keys and shapes of the official state dict, inputs.
        arrays: name -> tensor.
    """

    path: Path
    manifest: Mapping[str, Any]
    arrays: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> "Golden":
        manifest = json.loads(path.read_text(encoding="utf-8"))
        with np.load(path.with_suffix(".npz")) as file:
            arrays = {name: torch.from_numpy(np.array(file[name])) for name in file}
        return cls(path, manifest, arrays)

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def repository(self) -> str:
        return str(self.manifest.get("official_repo", "?"))

    @cached_property
    def cases(self) -> list[str]:
        """Sets of targets, e.g. main, oneempty, allempty."""
        return sorted({n.split(".")[1] for n in self.arrays if n.startswith("target.")})

    def images(self) -> ImageList:
        """The batch: already normalised, zeros at the bottom and the right."""
        inputs = self.manifest["inputs"]["images"]
        file = self.path.with_name(inputs["file"])
        if file.is_file():
            with np.load(file) as stored:
                images = [torch.from_numpy(stored[key]) for key in inputs["keys"]]
        else:
            images = list(_made(inputs["seed"], inputs["sizes_hw"]))
        for image, expected in zip(images, inputs.get("sha256_float32_bytes", ()), strict=False):
            if hashlib.sha256(image.numpy().tobytes()).hexdigest() != expected:
                raise UserError(f"An input image of {self.path} has another hash than it states.")
        return ImageList.from_tensors(images)

    def targets(self, case: str) -> list[Target]:
        """One for each image."""
        count = len(self.manifest["inputs"]["images"]["keys"])
        return [
            Target(
                self.arrays[f"target.{case}.img{i}.labels"],
                self.arrays[f"target.{case}.img{i}.boxes"],
                f"img{i}",
            )
            for i in range(count)
        ]


def _made(seed: int, sizes: list[list[int]]) -> Iterator[Tensor]:
    """The images of a manifest's recipe: fine noise, and coarse noise in 16x16 squares."""
    rng = np.random.RandomState(seed)
    for height, width in sizes:
        fine = rng.standard_normal((3, height, width))
        coarse = rng.standard_normal((3, math.ceil(height / 16), math.ceil(width / 16)))
        coarse = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
        yield torch.from_numpy((0.5 * fine + 1.5 * coarse).astype(np.float32))
