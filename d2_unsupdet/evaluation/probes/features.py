"""Features of a frozen ResNet for probes: the pooled last stage, or a small grid of every stage.

The grids are those of OpenSelfSup's VOC07 protocol; conv1 is read before the max-pooling, as there.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation.probes.data import ProbeImages, ProbeSet

log = logging.getLogger(__name__)

STAGES = {"conv1": "stem", "conv2": "res2", "conv3": "res3", "conv4": "res4", "conv5": "res5"}
# Cells a side; in ResNet-50 9216, 9216, 8192, 9216 and 8192 values.
GRID = {"conv1": 12, "conv2": 6, "conv3": 4, "conv4": 3, "conv5": 2}
# Side of the map at 224 pixels, and the window, stride and padding that the protocol has for it.
WINDOWS = {
    "conv1": (112, 10, 10, 4),
    "conv2": (56, 16, 8, 0),
    "conv3": (28, 13, 5, 0),
    "conv4": (14, 8, 3, 0),
    "conv5": (7, 6, 1, 0),
}
Pool = Callable[[str, Tensor], Tensor]


def pool_mean(stage: str, feature: Tensor) -> Tensor:
    """(batch, C, h, w) -> (batch, C)."""
    return feature.mean(dim=(2, 3))


def pool_grid(stage: str, feature: Tensor) -> Tensor:
    """(batch, C, h, w) -> (batch, C * cells): the protocol's windows at 224 pixels, at other sizes
    windows that cover the map evenly."""
    side, window, stride, padding = WINDOWS[stage]
    if feature.shape[-2:] == (side, side):
        return F.avg_pool2d(feature, window, stride, padding).flatten(1)
    return F.adaptive_avg_pool2d(feature, GRID[stage]).flatten(1)


def pool_nothing(stage: str, feature: Tensor) -> Tensor:
    """(batch, C, h, w) -> (batch, C * h * w): 2048 x 7 x 7 of a ResNet-50 at 224 pixels."""
    return feature.flatten(1)


def extract(
    net: nn.Module,
    probe_set: ProbeSet,
    *,
    size: int,
    stages: Sequence[str] = ("conv5",),
    pool: Pool = pool_mean,
    batch: int = 64,
    workers: int = 0,
    epoch: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> tuple[dict[str, Tensor], ProbeSet]:
    """Features of every readable item (stage -> (items, dim), on the CPU), and those items.

    Args:
        net: (batch, 3, h, w) uint8 RGB to {"stem", "res2", ...}, frozen.
        probe_set: what to look at.
        size: side of the input.
        stages: of STAGES.
        pool: a feature map to rows.
        batch: images at a time.
        workers: loading processes.
        epoch: see ProbeImages.
        seed: see ProbeImages.
        progress: whether to show a bar.
    """
    images = ProbeImages(probe_set, size, epoch=epoch, seed=seed)
    rows = [list(range(len(images)))[part] for part in chunks(len(images), batch)]
    kept: list[int] = []
    parts: dict[str, list[Tensor]] = {stage: [] for stage in stages}
    for there, maps in _maps(net, images, rows, stages, workers, progress):
        kept += there
        for stage in stages:
            parts[stage].append(pool(stage, maps[stage]).float().cpu())
    if not kept:
        raise UserError(f"No image of '{probe_set.name}' can be read.")
    features = {stage: torch.cat(rows) for stage, rows in parts.items()}
    bad = len(kept) < len(probe_set)
    return features, probe_set.only(kept) if bad else probe_set


def stream(
    net: nn.Module,
    images: ProbeImages,
    rows_of: Sequence[Sequence[int]],
    *,
    stage: str,
    pool: Pool = pool_mean,
    workers: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and features of each batch, where the network is; unreadable images are left out.

    Args:
        net: as in `extract`.
        images: the items' pixels.
        rows_of: the items of each batch.
        stage: of STAGES.
        pool: a feature map to rows.
        workers: loading processes.
    """
    for there, maps in _maps(net, images, rows_of, [stage], workers, False):
        yield torch.tensor(there), pool(stage, maps[stage]).float()


def _maps(
    net: nn.Module,
    images: ProbeImages,
    rows_of: Sequence[Sequence[int]],
    stages: Sequence[str],
    workers: int,
    progress: bool,
) -> Iterator[tuple[list[int], Mapping[str, Tensor]]]:
    """The readable items of each batch and their maps; what is left out is counted at the end."""
    # A generator of its own, since the loader draws from the global one otherwise.
    loader: DataLoader = DataLoader(
        images,
        batch_sampler=[list(rows) for rows in rows_of],
        num_workers=workers,
        collate_fn=list,
        generator=torch.Generator().manual_seed(0),
    )
    bad: list[str] = []
    name = images.probe_set.name
    for samples in tqdm(loader, desc=f"features of {name}", disable=not progress):
        there = [(index, pixels) for index, pixels, _ in samples if pixels is not None]
        bad += [reason for _, pixels, reason in samples if pixels is None]
        if there:
            pixels = torch.stack([pixels for _, pixels in there])
            yield [index for index, _ in there], feature_maps(net, pixels, stages)
    if bad:
        log.warning("left out %d unreadable images, the first: %s", len(set(bad)), bad[0])


@torch.no_grad()
def feature_maps(net: nn.Module, images: Tensor, stages: Sequence[str]) -> Mapping[str, Tensor]:
    """The maps of the stages; conv1 is the stem's convolution behind norm and ReLU."""
    caught: dict[str, Tensor] = {}
    with _watching(net, caught) if "conv1" in stages else nullcontext():
        features = net(images)
    missing = [s for s in stages if STAGES[s] not in features]
    if missing:
        raise UserError(f"The network has no {', '.join(missing)}; name others of {list(STAGES)}.")
    return {s: caught.get(s, features[STAGES[s]]) for s in stages}


@contextmanager
def _watching(net: nn.Module, caught: dict[str, Tensor]) -> Iterator[None]:
    """Keep what the stem's convolution gives; without a stem its feature map stays what it is."""
    stem = getattr(getattr(net, "resnet", None), "stem", None)
    if stem is None:
        yield
        return

    def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
        caught["conv1"] = output.relu()  # a copy: the stem goes on in place

    handle = stem.conv1.register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()


def normalised(features: Tensor, eps: float = 1e-5) -> Tensor:
    """Rows of length one; `eps` is added to the length, as the VOC07 protocol does."""
    return features / (features.norm(dim=1, keepdim=True) + eps)


def chunks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
