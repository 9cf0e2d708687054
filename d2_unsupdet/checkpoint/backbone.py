"""The ResNet of any checkpoint as a frozen extractor of features, for figures and probes.

The architecture is read off the tensors' names and shapes. What these cannot tell is taken as
torchvision has it (stride in the 3x3 convolution, RGB, ImageNet statistics), except where a run's
own model or the author of a Detectron2 file says otherwise.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from torch import Tensor, nn

from d2_unsupdet.checkpoint.checkpointer import newest_weights
from d2_unsupdet.checkpoint.files import check_exists, read_weights
from d2_unsupdet.checkpoint.formats import detect
from d2_unsupdet.checkpoint.hub import PREFIX
from d2_unsupdet.checkpoint.pretext_names import is_wrapped
from d2_unsupdet.checkpoint.pretext_view import TEACHER
from d2_unsupdet.checkpoint.published import MANIFEST, is_export, located
from d2_unsupdet.checkpoint.resnet import COUNTER, bare_name
from d2_unsupdet.errors import UserError

log = logging.getLogger(__name__)

State = dict[str, Tensor]
RANDOM = "random"
STAGES = ("res2", "res3", "res4", "res5")
_EXTRA_NORM = "res5.norm."  # some C4 heads put it behind the ResNet
_ZOO = "Detectron2 Model Zoo"  # trained from Caffe's ResNets


@dataclass(frozen=True)
class Stage:
    """Blocks of one resolution; `inner` is the width of the 3x3 convolution, 0 in basic blocks."""

    blocks: int
    channels: int
    inner: int = 0
    groups: int = 1


@dataclass(frozen=True)
class Architecture:
    """Everything about a ResNet that its tensors show."""

    stem: int
    stages: tuple[Stage, ...]

    def build(self, *, stride_in_1x1: bool = False) -> ResNet:
        """The network with Detectron2's random initialisation, stem and all stages as outputs."""
        stages, channels = [], self.stem
        for level, stage in enumerate(self.stages):
            settings: dict[str, Any] = {"block_class": BasicBlock}
            if stage.inner:
                settings = {
                    "block_class": BottleneckBlock,
                    "bottleneck_channels": stage.inner,
                    "num_groups": stage.groups,
                    "stride_in_1x1": stride_in_1x1,
                }
            strides = [2 if level else 1] + [1] * (stage.blocks - 1)
            stages.append(
                ResNet.make_stage(
                    num_blocks=stage.blocks,
                    in_channels=channels,
                    out_channels=stage.channels,
                    stride_per_block=strides,
                    norm="BN",
                    **settings,
                )
            )
            channels = stage.channels
        outputs = ["stem", *STAGES[: len(stages)]]
        return ResNet(BasicStem(out_channels=self.stem, norm="BN"), stages, out_features=outputs)


RESNET50 = Architecture(
    64, tuple(Stage(n, 256 * 2**i, 64 * 2**i) for i, n in enumerate((3, 4, 6, 3)))
)


@dataclass(frozen=True)
class Input:
    """How uint8 RGB becomes what the network was trained on; mean and std in its channel order."""

    mean: tuple[float, ...] = (123.675, 116.280, 103.530)
    std: tuple[float, ...] = (58.395, 57.120, 57.375)
    bgr: bool = False


CAFFE = Input((103.530, 116.280, 123.675), (1.0, 1.0, 1.0), bgr=True)


class FrozenResNet(nn.Module):
    """Feature maps of a ResNet that nothing can train or change.

    ::

        net = load_resnet("output/run")
        features = net(images)  # (batch, 3, h, w) uint8 RGB -> {"stem", "res2", ..., "res5"}
        net.channels["res4"], net.strides["res4"]

    Args:
        architecture: what to build.
        state: bare names (`res2.0.conv1.weight`) to tensors, whole; None keeps random values.
        source: where it comes from, in words.
        input: how images are normalised.
        stride_in_1x1: Caffe's layout of bottlenecks.
        seed: of random values.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        architecture: Architecture,
        state: Mapping[str, Tensor] | None = None,
        *,
        source: str = RANDOM,
        input: Input | None = None,
        stride_in_1x1: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.architecture, self.source = architecture, source
        with torch.random.fork_rng(devices=[]):  # a probe must not change the run it looks at
            torch.manual_seed(seed)
            self.resnet = architecture.build(stride_in_1x1=stride_in_1x1)
        if state is not None:
            _check_whole(source, state, self.resnet.state_dict())
            self.resnet.load_state_dict(dict(state), strict=False)  # all but BN's step counters
        self.input = input or Input()
        for name, values in (("mean", self.input.mean), ("std", self.input.std)):
            column = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, column, persistent=False)
        self.requires_grad_(False).eval()

    @property
    def channels(self) -> dict[str, int]:
        return {name: shape.channels for name, shape in self.resnet.output_shape().items()}

    @property
    def strides(self) -> dict[str, int]:
        return {name: shape.stride for name, shape in self.resnet.output_shape().items()}

    def train(self, mode: bool = True) -> "FrozenResNet":
        return super().train(False)  # statistics stay whatever a parent module does

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        images = images.to(self.mean.device)
        if self.input.bgr:
            images = images.flip(1)
        return self.resnet((images.to(self.mean.dtype) - self.mean) / self.std)


def load_resnet(
    source: str | Path, *, allow_unsafe: bool = False, like: str | Path | None = None, seed: int = 0
) -> FrozenResNet:
    """The frozen ResNet of a checkpoint.

    Args:
        source: a file of weights in any known layout, the folder of a run (its newest checkpoint),
            `random:<either>` (that architecture with random values) or `random`.
        allow_unsafe: run code that the file brings along.
        like: the checkpoint whose architecture a plain `random` takes; None means ResNet-50.
        seed: of random values.
    """
    kind, colon, rest = str(source).partition(":")
    if kind == RANDOM and not Path(source).exists():
        model = rest if colon else like
        found = load_resnet(model, allow_unsafe=allow_unsafe) if model else None
        return FrozenResNet(found.architecture if found else RESNET50, seed=seed)
    if Path(source).is_dir() and not is_export(source):
        return resnet_of(model_of_run(source, allow_unsafe=allow_unsafe), str(source))
    file = read_weights(located(source), allow_unsafe=allow_unsafe)
    state = bare_state(str(source), file.state)
    caffe = file.meta.get("__author__") == _ZOO
    if caffe:
        log.info("%s is of Detectron2's model zoo: BGR input, stride in the 1x1.", source)
    input = CAFFE if caffe else Input()
    return _built(str(source), state, input=input, stride_in_1x1=caffe)


def check_sources(sources: Iterable[str]) -> None:
    """Raise a UserError unless there is something at each of them; nothing is read or fetched."""
    for source in sources:
        kind, colon, rest = source.partition(":")
        if kind == RANDOM and not Path(source).exists():
            check_sources([rest] if colon else [])
        elif Path(source).is_dir():
            if not any((Path(source) / name).is_file() for name in ("config.yaml", MANIFEST)):
                raise UserError(f"'{source}' is no folder of a run: it holds no config.yaml.")
        elif not source.startswith(PREFIX):
            check_exists(located(source))


def name_checkpoints(given: Sequence[str]) -> dict[str, str]:
    """`LABEL=CHECKPOINT` or `CHECKPOINT` by label; without one, the end of its path."""
    named: dict[str, str] = {}
    for text in given:
        label, equals, source = text.partition("=")
        if not equals or Path(text).exists():
            label, source = _short(text), text
        if label in named:
            raise UserError(f"Two checkpoints are called '{label}'; write LABEL=CHECKPOINT.")
        named[label] = source
    return named


def first_architecture(sources: Iterable[str]) -> str | None:
    """The first checkpoint that is not random, whose architecture a plain `random` takes."""
    return next((source for source in sources if not source.startswith(RANDOM)), None)


def model_of_run(folder: str | Path, *, allow_unsafe: bool = False) -> nn.Module:
    """The whole model of a run on the CPU, with its newest weights (or their moving average).

    Which weights transfer, and what else they can show, is knowledge of the method's own class.
    """
    # the engine imports this room
    from d2_unsupdet.engine.build import build_model
    from d2_unsupdet.engine.config import load_config

    config = Path(folder) / "config.yaml"
    if not config.is_file():
        raise UserError(f"'{folder}' is no folder of a run: it holds no config.yaml.")
    weights = newest_weights(folder)
    sets = ["train.init_checkpoint=", "train.device=cpu", "train.sync_bn=false"]
    model = build_model(load_config(str(config), sets, allow_unsafe=allow_unsafe))
    model.load_state_dict(weights)
    return model.eval()


def resnet_of(model: nn.Module, source: str = "the model") -> FrozenResNet:
    """A frozen copy, on the CPU, of what a method would export now, or of a detector's ResNet."""
    export: Any = getattr(model, "export", model.state_dict)
    state = export()
    blocks = [m for m in model.modules() if isinstance(m, BottleneckBlock)]
    strided = any(max(block.conv1.stride) > 1 for block in blocks)
    bare = bare_state(source, state)
    return _built(source, bare, input=_input_of(model), stride_in_1x1=strided)


def bare_state(source: str, state: Mapping[str, Tensor]) -> State:
    """The ResNet's tensors under Detectron2's bare names, without step counters."""
    layout = detect(state)
    kept = [n for n in state if not layout.drop_reason(n) and not n.endswith(COUNTER)]
    if is_wrapped(state):  # a box pretext: the detector that learns, not its teacher
        kept = [name for name in kept if not name.startswith(TEACHER)]
    names = {name: bare for name in kept if (bare := bare_name(layout.to_hub(name)))}
    names = {name: bare for name, bare in names.items() if not bare.startswith(_EXTRA_NORM)}
    twice = [bare for bare, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise UserError(
            f"{source} holds more than one {twice[0]}: give the run's folder or its exported "
            "weights instead."
        )
    left = [n for n in state if n not in names and not n.endswith(COUNTER)]
    log.info("%s: %d tensors of its ResNet, %d of other parts", source, len(names), len(left))
    # a copy, so that later training of a live model does not reach it
    return {bare: state[name].detach().float().cpu().clone() for name, bare in names.items()}


def infer_architecture(source: str, state: Mapping[str, Tensor]) -> Architecture:
    """The architecture of a ResNet's bare state, or a UserError for what is not one."""
    try:
        stem = state["stem.conv1.weight"].shape[0]
        stages = []
        for level in STAGES:
            blocks = {int(m[1]) for n in state if (m := re.match(rf"{level}\.(\d+)\.", n))}
            if blocks:
                stages.append(_stage(level, len(blocks), state))
    except (KeyError, IndexError, ZeroDivisionError) as error:
        what = f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{source} holds no ResNet that can be rebuilt: {what}.") from None
    return Architecture(stem, tuple(stages))


def _stage(level: str, blocks: int, state: Mapping[str, Tensor]) -> Stage:
    if f"{level}.0.conv3.weight" not in state:
        return Stage(blocks, state[f"{level}.0.conv2.weight"].shape[0])
    channels, inner = state[f"{level}.0.conv3.weight"].shape[:2]
    return Stage(blocks, channels, inner, inner // state[f"{level}.0.conv2.weight"].shape[1])


def _built(source: str, state: State, **settings: Any) -> FrozenResNet:
    return FrozenResNet(infer_architecture(source, state), state, source=source, **settings)


def _check_whole(source: str, state: Mapping[str, Tensor], built: Mapping[str, Tensor]) -> None:
    expected = {name: tuple(t.shape) for name, t in built.items() if not name.endswith(COUNTER)}
    found = {name: tuple(t.shape) for name, t in state.items() if not name.endswith(COUNTER)}
    shapes = [
        f"{n} is {found[n]} where {expected[n]} is expected"
        for n in sorted(found.keys() & expected.keys())
        if found[n] != expected[n]
    ]
    wrong = [f"it has no {n}" for n in sorted(expected.keys() - found.keys())]
    wrong += [f"{n} has no place" for n in sorted(found.keys() - expected.keys())]
    wrong += shapes
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"{source} is not a whole ResNet of basic or bottleneck blocks: "
            f"{'; '.join(wrong[:3])}{more}; fetch or export it again."
        )


def _input_of(model: nn.Module) -> Input:
    from d2_unsupdet.pretext.images import ViewInput

    holders: list[Any] = [m for m in model.modules() if isinstance(m, ViewInput)]
    if holders:
        return Input(_values(holders[0].mean), _values(holders[0].std))
    if not hasattr(model, "pixel_mean"):
        return Input()
    bgr = getattr(model, "input_format", "RGB") == "BGR"
    return Input(_values(model.pixel_mean), _values(model.pixel_std), bgr=bgr)


def _values(column: Tensor | nn.Module | Sequence[float]) -> tuple[float, ...]:
    return tuple(torch.as_tensor(column).flatten().tolist())


def _short(path: str) -> str:
    parts = [part for part in Path(path).parts if part != "output"]
    return "/".join(parts[-2:]) or path
