"""From a plan to batches: a map-style data set addressed by (epoch, index) and two loaders.

A training loader is opened at a step and always yields the same batches from there on, whatever
the worker count: every sample is mapped inside a seed of its own.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.data import DatasetFromList
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, get_worker_info

from d2_unsupdet.data.images import BadImage, NoBoxes
from d2_unsupdet.data.plan import BatchPlan, Position
from d2_unsupdet.errors import UserError
from d2_unsupdet.seeding import seeded

Mapper = Callable[[dict], dict]
NEIGHBOURS = 32  # unreadable files in a row before the data set itself is called broken


class MappedDataset(Dataset):
    """Records mapped on demand; an unreadable image is replaced by the next readable one.

    The replacement is the same in every process, and the sample says which files it stands for
    (`bad_files`, and `boxless` where only this draw left no boxes), so that the main process can
    count them.
    """

    def __init__(self, records: Sequence[dict], mapper: Mapper, *, seed: int) -> None:
        # Serialized: one copy-on-write buffer instead of a Python object for every record.
        self.records = DatasetFromList(list(records), copy=False)
        self.mapper = mapper
        self.seed = seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, position: Position) -> dict:
        """The sample at a position; a UserError comes back as a value, see `unpack`."""
        try:
            return self.sample(position)
        except UserError as error:
            return {"error": str(error)}

    def sample(self, position: Position) -> dict:
        """The mapped record at a position, or of the next readable image."""
        bad: list[str] = []
        boxless: list[str] = []
        # A second copy in one epoch is cut and coloured otherwise; the first as if it were alone.
        copy = [position.copy] if position.copy else []
        for step in range(min(NEIGHBOURS, len(self))):
            index = (position.index + step) % len(self)
            record = {**self.records[index], "epoch": position.epoch, "index": index}
            if copy:
                record["copy"] = position.copy
            try:
                with seeded(self.seed, position.epoch, index, *copy):
                    sample = self.mapper(record)
            except BadImage as error:
                (boxless if isinstance(error, NoBoxes) else bad).append(str(error))
                continue
            return {**sample, "bad_files": tuple(bad), "boxless": tuple(boxless)}
        first = (bad + boxless)[0]
        raise UserError(
            f"{len(bad + boxless)} images in a row cannot be used, for example {first}; "
            "check the data set's files."
        )


class _PlannedBatches:
    """Batch sampler of one rank: the plan's share from a step on, without end."""

    def __init__(self, plan: BatchPlan, start: int, rank: int, world: int) -> None:
        self.plan, self.start, self.rank, self.world = plan, start, rank, world

    def __iter__(self) -> Iterator[list[Position]]:
        step = self.start
        while True:
            yield self.plan.share(step, rank=self.rank, world=self.world)
            step += 1


def _workers(wanted: int) -> int:
    """Never more than this process's share of the cores: the batches do not depend on it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    most = max(1, (cores or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    if wanted > most:
        logging.getLogger(__name__).info("%d loading workers instead of %d: cores", most, wanted)
    return min(wanted, most)


def _set_up_worker(_: int) -> None:
    """Workers are the parallelism: one thread each, in torch and in OpenCV."""
    # fvcore only reads the array that Pillow hands out read-only.
    warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)


class Joined(NamedTuple):
    """One tensor of every sample, end to end."""

    values: torch.Tensor  # (elements of all samples,)
    shapes: list[torch.Size]

    @classmethod
    def of(cls, tensors: Sequence[torch.Tensor]) -> "Joined":
        return cls(torch.cat([t.reshape(-1) for t in tensors]), [t.shape for t in tensors])

    def parts(self) -> list[torch.Tensor]:
        """The tensors again, views of `values`."""
        parts = self.values.split([shape.numel() for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]


Packed = tuple[dict[str, Joined], list[dict]]


def pack(samples: list[dict]) -> Packed:
    """The tensors of one name as one tensor a batch, and the rest of each sample.

    Every tensor that crosses the worker boundary holds a file descriptor while it lives; a batch of
    256 pairs, or of 64 images with boxes and crops, would need more than the usual limit of 1024.
    """
    first = samples[0] if samples else {}
    shared = [
        name
        for name, value in first.items()
        if isinstance(value, torch.Tensor)
        and all(
            isinstance(s.get(name), torch.Tensor) and s[name].dtype == value.dtype for s in samples
        )
    ]
    joined = {name: Joined.of([s[name] for s in samples]) for name in shared}
    return joined, [{k: v for k, v in s.items() if k not in shared} for s in samples]


def unpack(packed: Packed) -> list[dict]:
    """The samples of `pack`, their tensors views of the batch's; raises a worker's UserError here,
    where no traceback of the worker is wrapped around it."""
    joined, rest = packed
    samples = [dict(sample) for sample in rest]
    for name, values in joined.items():
        for sample, tensor in zip(samples, values.parts(), strict=True):
            sample[name] = tensor
    return _raised(samples)


def _raised(samples: list[dict]) -> list[dict]:
    for sample in samples:
        if "error" in sample:
            raise UserError(sample["error"])
    return samples


class TrainLoader:
    """Batches of a plan, opened at any step.

    >>> loader = build_train_loader(dataset=records, mapper=mapper, total_batch_size=16, seed=0)
    >>> batches = loader.from_step(1200)      # an iterator of list[dict], this rank's share

    Args:
        dataset: records.
        plan: which records each step sees.
        num_workers: loading processes; the batches do not depend on it.
    """

    def __init__(self, *, dataset: MappedDataset, plan: BatchPlan, num_workers: int = 2) -> None:
        self.dataset, self.plan, self.num_workers = dataset, plan, num_workers

    @property
    def steps_per_epoch(self) -> float:
        return self.plan.size / self.plan.batch

    def from_step(self, step: int) -> Iterator[list[dict]]:
        batches = _PlannedBatches(self.plan, step, comm.get_rank(), comm.get_world_size())
        # The loader draws a base seed for its workers; a generator of its own leaves the run's
        # random state as it was.
        return map(
            unpack,
            DataLoader(
                self.dataset,
                batch_sampler=batches,  # type: ignore[arg-type]
                num_workers=_workers(self.num_workers),
                collate_fn=pack,
                worker_init_fn=_set_up_worker,
                generator=torch.Generator().manual_seed(0),
            ),
        )


def build_train_loader(
    *,
    dataset: Sequence[dict],
    mapper: Mapper,
    total_batch_size: int,
    seed: int = 0,
    num_workers: int = 2,
    aspect_ratio_grouping: bool = False,
    repeat_threshold: float | None = None,
) -> TrainLoader:
    """Loader of a training set; with aspect grouping the records need `width` and `height`.

    Args:
        dataset: records of the training set.
        mapper: turns a record (plus `epoch`, `index`) into a sample.
        total_batch_size: images an optimizer step sees, over all processes.
        seed: of the order and of every augmentation.
        num_workers: loading processes for each training process.
        aspect_ratio_grouping: keep landscape and portrait images in separate batches.
        repeat_threshold: show images of rare classes oftener, as LVIS does: those of a class that a
            share f of the images holds, f below this, sqrt(this / f) times as often (LVIS: 0.001).
    """
    landscape = None
    if aspect_ratio_grouping:
        landscape = [record["width"] > record["height"] for record in dataset]
    plan = BatchPlan(
        seed=seed,
        size=len(dataset),
        batch=total_batch_size,
        landscape=landscape,
        weights=_repeat_factors(dataset, repeat_threshold) if repeat_threshold else None,
    )
    mapped = MappedDataset(dataset, mapper, seed=seed)
    return TrainLoader(dataset=mapped, plan=plan, num_workers=num_workers)


def _repeat_factors(dataset: Sequence[dict], threshold: float) -> list[float]:
    """Of each image its rarest class's."""
    if not all("annotations" in record for record in dataset):
        raise UserError(
            f"dataloader.train.repeat_threshold={threshold} counts classes, but the images come "
            "without labels; leave it out."
        )
    count = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
    return count(list(dataset), threshold).tolist()


class _TestSet(Dataset):
    """Records in order; an unreadable image becomes None and is left out of the batch.

    A UserError comes back as a value, so that no worker's traceback is wrapped around it.
    """

    def __init__(self, records: Sequence[dict] | DatasetFromList, mapper: Mapper) -> None:
        shared = isinstance(records, DatasetFromList)  # another loader's, in one copy
        self.records = records if shared else DatasetFromList(list(records), copy=False)
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict | None:
        try:
            with seeded("test", index):
                return self.mapper({**self.records[index], "epoch": 0, "index": index})
        except BadImage as error:
            worker = get_worker_info()
            logging.getLogger(__name__).warning(
                "left out of the evaluation: %s: %s%s",
                error.path,
                error.reason,
                f" (worker {worker.id})" if worker else "",
            )
            return None
        except UserError as error:
            return {"error": str(error)}


def _without_missing(samples: list[dict | None]) -> list[dict]:
    return [sample for sample in samples if sample is not None]


class TestLoader:
    """Visits each record once over all ranks, in order; a batch of unreadable images is no batch.

    Args:
        dataset: maps records for inference.
        batch_size: images a batch.
        num_workers: loading processes.
    """

    __test__ = False  # pytest: not a test class

    def __init__(self, dataset: _TestSet, *, batch_size: int = 1, num_workers: int = 2) -> None:
        self.dataset = dataset
        rank, world = comm.get_rank(), comm.get_world_size()
        each = -(-len(dataset) // world)
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            sampler=list(range(rank * each, min((rank + 1) * each, len(dataset)))),
            batch_size=batch_size,
            num_workers=_workers(num_workers),
            collate_fn=_without_missing,
            worker_init_fn=_set_up_worker,
            generator=torch.Generator().manual_seed(0),
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[list[dict]]:
        return (_raised(batch) for batch in self._loader if batch)


def build_test_loader(
    *,
    dataset: Sequence[dict] | DatasetFromList,
    mapper: Mapper,
    batch_size: int = 1,
    num_workers: int = 2,
) -> TestLoader:
    """Loader of a test set.

    Args:
        dataset: records of the test set.
        mapper: turns a record into a sample.
        batch_size: images a batch.
        num_workers: loading processes for each process.
    """
    return TestLoader(_TestSet(dataset, mapper), batch_size=batch_size, num_workers=num_workers)
