"""One extraction on disk: its shards, who works on which, and what was asked for.

Everything that matters is a file: a shard is published or it is not. So any number of processes on
any number of machines can join, die and come back; each image of a published shard is done once.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2_unsupdet.checkpoint.files import write_json
from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.claims import claim
from d2_unsupdet.priors.generation import Generation, read_json
from d2_unsupdet.priors.merging import shard_name
from d2_unsupdet.priors.names import image_name
from d2_unsupdet.priors.store import PriorStore

JOB, CLAIMS = "job.json", "claims"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is extracted, into which generation of which store.

    Args:
        store: where.
        generation: its number.
        records: the images; shard i holds the i-th `shard_size` of them, whoever computes it.
        settings: how the boxes are made; part of the generation's hash.
        shard_size: images that are lost at most, per process, by a kill.
        seed: all that is random is a function of it and the image's name.
    """

    store: PriorStore
    generation: int
    records: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    shard_size: int = 512
    seed: int = 0

    @property
    def folder(self) -> Path:
        """Where it is worked on."""
        return self.store.partial(self.generation)

    @property
    def shards(self) -> int:
        """How many there are; an empty data set has one."""
        return max(1, -(-len(self.records) // self.shard_size))

    def shard_records(self, shard: int) -> Sequence[Mapping[str, Any]]:
        """The images of a shard."""
        return self.records[shard * self.shard_size : (shard + 1) * self.shard_size]

    def path(self, shard: int) -> Path:
        """Where it is once it is done."""
        return self.folder / shard_name(shard)

    def open(self) -> None:
        """Create the folder, or join what others began; other settings there are an error."""
        self.store.create()
        asked = self._description()
        if self.is_published():
            self._compare(asked, self.store.folder(self.generation) / JOB)
            return
        (self.folder / CLAIMS).mkdir(parents=True, exist_ok=True)
        if not (self.folder / JOB).exists():
            write_json(self.folder / JOB, asked)
        self._compare(asked, self.folder / JOB)

    def _compare(self, asked: Mapping[str, Any], path: Path) -> None:
        begun = read_json(path) if path.is_file() else asked  # a generation of another writer
        differing = [key for key in asked if begun.get(key) != asked[key]]
        if differing:
            told = "; ".join(_difference(key, begun.get(key), asked[key]) for key in differing)
            raise UserError(
                f"{path.parent} was made otherwise: {told}; give another --out (or --generation), "
                "repeat its own command to go on with it, or add --restart to delete it first."
            )

    def is_published(self) -> bool:
        """Whether all is done."""
        return self.generation in self.store.generations

    def missing(self) -> list[int]:
        """Shards that are not done, claimed or not."""
        done = set(os.listdir(self.folder)) if self.folder.is_dir() else set()
        return [shard for shard in range(self.shards) if shard_name(shard) not in done]

    def images_done(self) -> int:
        """Images of the shards that are done."""
        if self.is_published():
            return len(self.records)
        return len(self.records) - sum(len(self.shard_records(s)) for s in self.missing())

    @contextmanager
    def claim(self, shard: int) -> Iterator[bool]:
        """Own a shard that is not done; what a killed owner left of it is removed."""
        with claim(self.folder / CLAIMS / f"{shard:05d}.lock") as owned:
            free = owned and self.folder.is_dir() and not self.path(shard).exists()
            if free:
                self._remove_leftovers(shard_name(shard))
            yield free

    def is_claimable(self) -> bool:
        """Whether there is a shard that nobody works on."""
        for shard in self.missing():
            with self.claim(shard) as free:
                if free:
                    return True
        return False

    def publish(self) -> Generation | None:
        """Merge the shards if all are there; None while some are missing or another one merges."""
        with claim(self.folder / CLAIMS / "merge.lock") as owned:
            if owned and self.folder.is_dir() and not self.missing():
                self._remove_leftovers("")
                self.store.publish(self.generation, self.settings, shards=self.shards)
                self._remove_claims()
        return self.store.open(self.generation) if self.is_published() else None

    def _remove_claims(self) -> None:
        folder = self.store.folder(self.generation) / CLAIMS
        with suppress(OSError):  # of no use any more, but in nobody's way
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()

    def _remove_leftovers(self, name: str) -> None:
        for path in self.folder.glob(f".{name}*.tmp"):
            path.unlink(missing_ok=True)

    def _description(self) -> dict[str, Any]:
        names = hashlib.sha256()
        for record in self.records:
            names.update(image_name(record, self.store.root).encode() + b"\n")
        described = {
            "generation": self.generation,
            "images": len(self.records),
            "names": names.hexdigest(),
            "settings": dict(self.settings),
            "shard_size": self.shard_size,
            "seed": self.seed,
        }
        return json.loads(json.dumps(described))  # tuples become lists, as they are read back


def _difference(key: str, old: Any, new: Any) -> str:
    """Both values, for people; of settings only those that differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        return "; ".join(_difference(name, old.get(name), new.get(name)) for name in names)
    if key == "names":  # hashes say nothing
        return "the images have other names"
    return f"{key} {old!r} there, {new!r} asked for"


def throw_away(store: PriorStore, generation: int) -> None:
    """Delete a generation, finished or not; an error while anybody works on it.

    All its claims are held meanwhile, so that nobody takes up what is being deleted.
    """
    with ExitStack() as held:
        for path in sorted((store.partial(generation) / CLAIMS).glob("*.lock")):
            if not held.enter_context(claim(path)):
                raise UserError(
                    f"{store.partial(generation)} is being worked on ({path.name} is claimed): "
                    "end the other processes first, then --restart."
                )
        store.remove(generation)
