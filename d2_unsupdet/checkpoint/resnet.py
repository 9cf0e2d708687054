"""What a whole ResNet holds, under Detectron2's names: what a converted file is checked against.

Torchvision's layout (stride in the 3x3 convolution) and Detectron2's have the same tensor shapes.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

Shape = tuple[int, ...]

_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
_BACKBONE = re.compile(r"(?:.*\.)?((?:stem|res[2-5])\..+)")
COUNTER = "num_batches_tracked"  # kept by BatchNorm, not by frozen norms; weights do not need it


@dataclass(frozen=True)
class Completeness:
    """How a set of tensors differs from the ResNet it is nearest to."""

    depth: int
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not (self.missing or self.unexpected or self.misshaped)


def bare_name(name: str) -> str | None:
    """`backbone.bottom_up.res2.0.conv1.weight` -> `res2.0.conv1.weight`; None outside a ResNet."""
    match = _BACKBONE.fullmatch(name)
    return match[1] if match else None


def resnet_shapes(depth: int) -> dict[str, Shape]:
    """Name -> shape of every convolution and norm of a ResNet with that many layers."""
    basic = depth < 50
    shapes = _conv("stem.conv1", 3, 64, 7)
    channels = 64
    for stage, blocks in enumerate(_BLOCKS[depth]):
        width = 64 * 2**stage
        out = width if basic else 4 * width
        for block in range(blocks):
            name = f"res{stage + 2}.{block}"
            if basic:
                shapes |= _conv(f"{name}.conv1", channels, width, 3)
                shapes |= _conv(f"{name}.conv2", width, width, 3)
            else:
                shapes |= _conv(f"{name}.conv1", channels, width, 1)
                shapes |= _conv(f"{name}.conv2", width, width, 3)
                shapes |= _conv(f"{name}.conv3", width, out, 1)
            if channels != out:
                shapes |= _conv(f"{name}.shortcut", channels, out, 1)
            channels = out
    return shapes


def check_resnet(state: Mapping[str, torch.Tensor]) -> Completeness:
    """Compare bare names and shapes with the nearest ResNet (18, 34, 50, 101 or 152)."""
    names = {name for name in state if not name.endswith(COUNTER)}
    depth = nearest_depth(names)
    shapes = resnet_shapes(depth)
    misshaped = [
        f"{name} {tuple(state[name].shape)} instead of {shapes[name]}"
        for name in sorted(names & shapes.keys())
        if tuple(state[name].shape) != shapes[name]
    ]
    missing, unexpected = sorted(shapes.keys() - names), sorted(names - shapes.keys())
    return Completeness(depth, missing, unexpected, misshaped)


def nearest_depth(names: Iterable[str]) -> int:
    """The depth whose tensor names differ least from these."""
    found = set(names)
    return min(_BLOCKS, key=lambda depth: len(resnet_shapes(depth).keys() ^ found))


def _conv(name: str, inputs: int, outputs: int, size: int) -> dict[str, Shape]:
    norm = {f"{name}.norm.{part}": (outputs,) for part in _NORM}
    return {f"{name}.weight": (outputs, inputs, size, size), **norm}


_NORM = ("weight", "bias", "running_mean", "running_var")
