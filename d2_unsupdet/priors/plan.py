"""What an extraction is asked for, in plain values that can be sent to another machine."""

import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2

from d2_unsupdet.data.catalog import get_dataset, locate
from d2_unsupdet.priors.by_name import source_by_name
from d2_unsupdet.priors.extraction import extract
from d2_unsupdet.priors.generation import Generation
from d2_unsupdet.priors.job import Job
from d2_unsupdet.priors.names import common_root
from d2_unsupdet.priors.store import PriorStore


@dataclass(frozen=True, kw_only=True)
class ExtractionPlan:
    """The boxes of one source on one data set.

    Args:
        dataset: registered names, `folder:/images`, or simply a folder.
        store: folder of the `PriorStore`.
        source: as `source_by_name` reads it.
        generation: which of the store's.
        subset: of the images, as `get_dataset` reads it.
        seed: of all that is random.
        shard_size: images a shard.
        root: the folder that image names begin at; default DETECTRON2_DATASETS, or the folder that
            holds all images if they lie elsewhere.
    """

    dataset: str
    store: str
    source: str
    generation: int = 0
    subset: str | None = None
    seed: int = 0
    shard_size: int = 512
    root: str | None = None

    def records(self) -> list[dict[str, Any]]:
        """The images, without labels."""
        return read_records(self.dataset, subset=self.subset, labels=False)

    def job(self) -> Job:
        """The job, with its images."""
        records = self.records()
        root = self.root or PriorStore(self.store).root or common_root(records)
        settings = {
            "dataset": self.dataset,
            "subset": self.subset,
            "source": self.source,
            "seed": self.seed,
            "opencv": cv2.__version__,  # its proposals may change between versions
        }
        return Job(
            store=PriorStore(self.store, root=root),
            generation=self.generation,
            records=records,
            settings=settings,
            shard_size=self.shard_size,
            seed=self.seed,
        )

    def run(
        self, *, processes: int = 0, wait: bool = False, progress: bool = True
    ) -> Generation | None:
        """See `extraction.extract`."""
        build = partial(source_by_name, self.source)
        return extract(self.job(), build, processes=processes, wait=wait, progress=progress)

    def run_task(self, number: int, *, processes: int) -> None:
        """One task of an array; the number only says where its log is."""
        self.run(processes=processes, progress=number == 0)


def read_records(dataset: str, **settings: Any) -> list[dict[str, Any]]:
    """The records of a data set; the path of a folder is a name too."""
    if ":" not in dataset and os.path.isdir(locate(dataset)):
        dataset = f"folder:{dataset}"
    return get_dataset(dataset, **settings)
