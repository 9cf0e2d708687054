"""Label subsets (1 %, 10 %, 50 images ...) as lists of image ids.

The order of the ids is a hash of (seed, id): it knows nothing of ranks, of the order of the input
or of the other images, and with one seed every smaller subset lies inside every larger one.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2_unsupdet.errors import UserError
from d2_unsupdet.seeding import derive_seed

ImageId = int | str
STANDARD = (0.01, 0.02, 0.05, 0.10, 0.30, 0.50, 0.70)  # the fractions that papers report


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Which of the images to use.

    ```python
    parse("10%@seed1"), parse("50@seed0+every_class"), parse("ids:labelled.json"), parse(0.1)
    ```

    Args:
        fraction: share of the images, 0-1; at least one image is taken.
        count: number of images, instead of the fraction.
        ids_file: a list written by `save_ids`, instead of drawing.
        seed: another seed draws other images.
        every_class: put images first that together show every class.
    """

    fraction: float | None = None
    count: int | None = None
    ids_file: str | None = None
    seed: int = 0
    every_class: bool = False

    def __post_init__(self) -> None:
        given = [v for v in (self.fraction, self.count, self.ids_file) if v is not None]
        if len(given) != 1:
            raise UserError("A subset needs exactly one of 'fraction', 'count' and 'ids_file'.")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise UserError(f"The subset fraction {self.fraction} is not between 0 and 1.")
        if self.count is not None and self.count < 1:
            raise UserError(f"The subset of {self.count} images is empty; ask for at least 1.")

    def __str__(self) -> str:
        if self.ids_file is not None:
            return f"ids:{self.ids_file}"
        size = f"{self.count}" if self.count is not None else f"{100 * (self.fraction or 0):g}%"
        return f"{size}@seed{self.seed}" + ("+every_class" if self.every_class else "")

    def size(self, total: int) -> int:
        """How many of `total` images."""
        if self.count is None:
            return max(1, int((self.fraction or 0) * total + 0.5))
        if self.count > total:
            raise UserError(f"A subset of {self.count} images was asked of only {total} images.")
        return self.count


SubsetSpec = Subset | str | float | int | Mapping[str, Any] | None


def parse(spec: SubsetSpec) -> Subset:
    """`"10%@seed1"`, `"50@seed0+every_class"`, `"ids:<file>"`, 0.1, 50 or a dict -> `Subset`."""
    if isinstance(spec, Subset):
        return spec
    if isinstance(spec, Mapping):
        try:
            return Subset(**spec)
        except TypeError as error:
            keys = ", ".join(Subset.__dataclass_fields__)
            raise UserError(f"Subset {dict(spec)} has a key that is none of {keys}.") from error
    if isinstance(spec, float):
        return Subset(fraction=spec)
    if isinstance(spec, int) and not isinstance(spec, bool):
        return Subset(count=spec)
    if isinstance(spec, str) and spec.startswith("ids:"):
        return Subset(ids_file=spec[4:])
    return _parse_text(str(spec))


def draw(
    ids: Iterable[ImageId],
    spec: SubsetSpec,
    classes: Mapping[ImageId, Iterable[int]] | None = None,
) -> list[ImageId]:
    """The ids of a subset, in the order of their hash.

    Args:
        ids: all image ids, any order.
        spec: see `parse`.
        classes: the classes on each image, needed for `every_class`.
    """
    subset = parse(spec)
    all_ids = list(ids)
    if len(set(all_ids)) < len(all_ids):
        raise UserError("A subset cannot be drawn: two images have the same id.")
    if subset.ids_file is not None:
        return _listed(all_ids, subset.ids_file)
    keyed = {image: (derive_seed("subset", subset.seed, image), repr(image)) for image in all_ids}
    order = sorted(all_ids, key=keyed.__getitem__)
    if subset.every_class:
        order = _covering_first(order, classes or {})
    return order[: subset.size(len(order))]


def select(records: Sequence[dict], spec: SubsetSpec) -> list[dict]:
    """The records of a subset, in their old order."""
    chosen = set(draw(map(record_id, records), spec, {record_id(r): _classes(r) for r in records}))
    return [record for record in records if record_id(record) in chosen]


def record_id(record: dict) -> ImageId:
    """The image id; with the data set in front where several were joined."""
    image_id, dataset = record["image_id"], record.get("dataset_name")
    return image_id if dataset is None else f"{dataset}/{image_id}"


def save_ids(path: str | Path, records: Sequence[dict], **about: Any) -> None:
    """Write the ids of the records that a run uses as JSON, whole or not at all.

    Args:
        path: the file; `"ids:<path>"` uses it again.
        records: what `get_dataset` returned.
        about: kept beside the ids (data set, spec, ...).
    """
    ids = [record_id(record) for record in records]
    digest = hashlib.sha256(json.dumps(ids).encode()).hexdigest()
    content = {**about, "count": len(ids), "sha256": digest, "ids": ids}
    part = Path(f"{path}.part{os.getpid()}")
    part.write_text(json.dumps(content, indent=1, default=str))
    os.replace(part, path)


def load_ids(path: str | Path) -> list[ImageId]:
    """The ids in a file of `save_ids`, or in a plain JSON list."""
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read the id list {path}: {error}.") from error
    ids = content.get("ids") if isinstance(content, dict) else content
    if not isinstance(ids, list) or not ids:
        raise UserError(f"{path} is not an id list: expected JSON with a list 'ids'.")
    return ids


def _listed(all_ids: list[ImageId], path: str) -> list[ImageId]:
    wanted, known = load_ids(path), set(all_ids)
    unknown = [i for i in wanted if i not in known]
    if unknown:
        raise UserError(
            f"{len(unknown)} of the {len(wanted)} ids in {path} are not in the data set, "
            f"{unknown[0]!r} for one; the list belongs to another data set."
        )
    return wanted


def _covering_first(
    order: list[ImageId], classes: Mapping[ImageId, Iterable[int]]
) -> list[ImageId]:
    """Move images that show a class for the first time to the front; nesting is kept."""
    seen: set[int] = set()
    front: list[ImageId] = []
    rest: list[ImageId] = []
    for image in order:
        new = set(classes.get(image, ())) - seen
        seen |= new
        (front if new else rest).append(image)
    return front + rest


def _classes(record: dict) -> set[int]:
    found = {a["category_id"] for a in record.get("annotations", []) if not a.get("iscrowd")}
    return found | ({record["label"]} if "label" in record else set())


_TEXT = re.compile(r"(?P<size>[\d.]+)(?P<percent>%?)(@seed(?P<seed>\d+))?(?P<cover>\+every_class)?")


def _parse_text(text: str) -> Subset:
    found = _TEXT.fullmatch(text.replace(" ", ""))
    try:
        size = float(found["size"]) if found else math.nan
    except ValueError:  # two points
        size = math.nan
    if found is None or math.isnan(size):
        raise UserError(
            f"The subset {text!r} is not understood; examples: '10%@seed1', '50@seed0', "
            "'1%@seed0+every_class', 'ids:<file>'."
        )
    seed, cover = int(found["seed"] or 0), found["cover"] is not None
    if found["percent"]:
        return Subset(fraction=size / 100, seed=seed, every_class=cover)
    if found["size"].isdigit():
        return Subset(count=int(size), seed=seed, every_class=cover)
    return Subset(fraction=size, seed=seed, every_class=cover)
