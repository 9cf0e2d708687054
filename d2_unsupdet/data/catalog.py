"""Data sets by name, in Detectron2's own catalogs.

Whatever is registered here is looked for when it is asked for, not when it is imported: relative
paths are found under the current folder or under DETECTRON2_DATASETS (default ./datasets) as they
are at that moment. A path can be a name too: `folder:/my/images`, `coco:ann.json@images`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from d2_unsupdet.data import subsets
from d2_unsupdet.data.readers.common import count_text, warn_once
from d2_unsupdet.errors import UserError, nearest

Names = str | Sequence[str]
_CLASS_KEYS = ("thing_classes", "stuff_classes", "image_classes")
_SEMANTIC = ("sem_seg", "cityscapes_sem_seg", "clustering")  # evaluators of label maps


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set before it is read.

    Args:
        key: what it was registered with; registering the same again changes nothing.
        paths: the files and folders that must exist.
        layout: how they are expected to lie, as a small tree.
        read: returns the records.
        metadata: what is known without the files.
        lazy: metadata that depends on the files or the root, worked out at each access.
    """

    key: tuple[Any, ...]
    paths: Callable[[], list[Path]]
    layout: str
    read: Callable[[], list[dict]]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    lazy: Mapping[str, Callable[[], Any]] = field(default_factory=dict)


class SourceMetadata(Metadata):
    """Detectron2's metadata whose paths and classes are worked out when somebody asks."""

    def __getattr__(self, key: str) -> Any:
        source = _sources.get(self.__dict__.get("name", ""))
        if source is not None and key in source.lazy:
            return source.lazy[key]()
        return super().__getattr__(key)


_sources: dict[str, Source] = {}
_on_demand: dict[str, Callable[[str, str], None]] = {}


def datasets_root() -> Path:
    """DETECTRON2_DATASETS as it is now, else ./datasets."""
    return Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser()


def get_dataset(
    names: Names,
    *,
    subset: subsets.SubsetSpec = None,
    keep_empty: bool = True,
    labels: bool = True,
    sizes: bool = False,
) -> list[dict]:
    """The records of one data set, or of several one after the other.

    ```python
    get_dataset("voc_2007_trainval,voc_2012_trainval", keep_empty=False)
    get_dataset("coco_2017_train", subset="10%@seed1")
    get_dataset("folder:/my/images", sizes=True)
    ```

    Args:
        names: a registered name, a name made of a path (see `split_names`), or several of them.
        subset: which of the images, see `subsets.parse`; drawn from all names together.
        keep_empty: keep images without a single object that is not a crowd.
        labels: False takes the images only.
        sizes: fill in width and height from the files where the labels do not give them.
    """
    names = split_names(names)
    check(names)
    records = []
    for name in names:
        try:
            found = DatasetCatalog.get(name)
        except FileNotFoundError as error:
            raise UserError(f"Data set '{name}' is incomplete: {error}.") from error
        if len(names) > 1:
            found = [{**record, "dataset_name": name} for record in found]
        records += found
    if subset is not None:
        records = subsets.select(records, subset)
    if not labels:
        records = [_without_labels(record) for record in records]
    elif not keep_empty:
        records = _without_empty(records, names)
    if sizes:
        _fill_sizes(records)
    return records


def split_names(names: Names) -> list[str]:
    """`"a,b"` or `["a", "b"]` -> `["a", "b"]`; a list element may contain a comma, a string not."""
    parts = names.split(",") if isinstance(names, str) else names
    found = [part.strip() for part in parts]
    if not found or not all(found):
        raise UserError(f"No data set is named by {names!r}; known names: {_some_names()}.")
    return found


def check(names: Names) -> None:
    """Raise a `UserError` unless every name is known and its files are where they should be.

    Costs a few `stat` calls: meant for the start of a program, before any work.
    """
    for name in split_names(names):
        _ensure(name)
        source = _sources.get(name)
        if source is None:  # registered by somebody else
            continue
        missing = [p for p in source.paths() if not p.exists()]
        if missing:
            root = datasets_root()
            looked = (
                f" (relative paths are looked for under DETECTRON2_DATASETS, now {root.absolute()})"
                if missing[0].is_relative_to(root)
                else ""
            )
            raise UserError(
                f"Data set '{name}' is not on disk: {missing[0]} does not exist{looked}. "
                f"Expected layout:\n{source.layout}"
            )


def metadata(name: str) -> Metadata:
    """Detectron2's metadata of a name, registering it first if it is a path."""
    _ensure(name)
    return MetadataCatalog.get(name)


def class_names(names: Names, kind: str | None = None) -> list[str]:
    """The classes of a data set in label order: the one source of truth for their number.

    Args:
        names: data set, or several that must agree.
        kind: "thing", "stuff" or "image"; default the first of these that the data set has, or
            "stuff" where its evaluator scores label maps.
    """
    keys = _CLASS_KEYS if kind is None else (f"{kind}_classes",)
    split = split_names(names)
    check(split)
    found = [_first_classes(name, keys) for name in split]
    for name, classes in zip(split, found, strict=True):
        if classes != found[0]:
            raise UserError(
                f"Data sets '{split[0]}' ({len(found[0])} classes) and '{name}' "
                f"({len(classes)} classes) do not have the same classes and cannot be joined: "
                f"{classes_apart(found[0], classes)}."
            )
    return found[0]


def classes_apart(first: Sequence[str], second: Sequence[str]) -> str:
    """How two lists of classes differ, in words."""
    parts = []
    for place, one, other in (("first", first, second), ("second", second, first)):
        only = [name for name in one if name not in other]
        if only:
            shown = ", ".join(repr(name) for name in only[:3]) + (" ..." if len(only) > 3 else "")
            parts.append(f"only the {place} has {shown}")
    return " and ".join(parts) or "their order differs"


def register(name: str, source: Source) -> None:
    """Put a source under a name; the same source again changes nothing, another one replaces it."""
    known = _sources.get(name)
    if known is not None and known.key == source.key and name in DatasetCatalog:
        return
    DatasetCatalog.pop(name, None)
    MetadataCatalog.pop(name, None)
    _sources[name] = source
    DatasetCatalog.register(name, partial(_read, name))
    MetadataCatalog[name] = SourceMetadata(name=name, **source.metadata)


def register_prefix(prefix: str, action: Callable[[str, str], None]) -> None:
    """Make names `prefix:rest` known: `action(name, rest)` registers one when it is asked for."""
    _on_demand[prefix] = action


def locate(path: str | Path) -> Path:
    """An absolute path as it is; a relative one here if it exists, else under the data root."""
    path = Path(path).expanduser()
    return path if path.is_absolute() or path.exists() else datasets_root() / path


def _read(name: str) -> list[dict]:
    check([name])
    return _sources[name].read()


def _ensure(name: str) -> None:
    """Register a name made of a path; an unknown one is an error with the nearest known name."""
    from d2_unsupdet.data import (
        builtin,
    )  # registers Detectron2's names and ours; it needs this module first

    builtin.register_all()
    if name in DatasetCatalog:
        return
    prefix, colon, rest = name.partition(":")
    if colon and rest and prefix in _on_demand:
        _on_demand[prefix](name, rest)
        return
    if os.path.isdir(locate(name)):
        hint = f" To use the images of that folder write 'folder:{name}'."
    elif name.startswith(("/", "./", "../", "~")):
        raise UserError(f"The folder '{name}' does not exist, and no data set has that name.")
    else:
        hint = nearest(name, [*DatasetCatalog.keys(), *(f"{p}:" for p in _on_demand)])
    raise UserError(f"No data set is named '{name}'.{hint or f' Known names: {_some_names()}.'}")


def _some_names() -> str:
    ours = [name for name in _sources if ":" not in name]
    return ", ".join([*sorted(ours), *(f"{prefix}:..." for prefix in _on_demand)])


def _first_classes(name: str, keys: Sequence[str]) -> list[str]:
    meta = metadata(name)
    if keys == _CLASS_KEYS and meta.get("evaluator_type") in _SEMANTIC:
        keys = ("stuff_classes",)
    for key in keys:
        found = meta.get(key)
        if found:
            return list(found)
    raise UserError(f"Data set '{name}' has no labels, so it has no {' or '.join(keys)}.")


def _without_labels(record: dict) -> dict:
    return {k: v for k, v in record.items() if k not in ("annotations", "sem_seg_file_name")}


def _without_empty(records: list[dict], names: list[str]) -> list[dict]:
    if not any("annotations" in record for record in records):
        return records
    kept = [r for r in records if any(not a.get("iscrowd") for a in r.get("annotations", []))]
    if not kept:
        raise UserError(f"No image of '{','.join(names)}' holds an object to train on.")
    if len(kept) < len(records):
        empty = count_text(len(records) - len(kept), "image")
        warn_once(f"{','.join(names)}: left out {empty} without objects.")
    return kept


def _fill_sizes(records: list[dict]) -> None:
    """Read only the headers, in threads; a file that cannot be read keeps no size."""
    from d2_unsupdet.data.images import BadImage, image_size

    def fill(record: dict) -> None:
        with suppress(BadImage):  # the loader replaces, counts and names it when it comes to it
            record["width"], record["height"] = image_size(record["file_name"])

    missing = [r for r in records if not (r.get("width") and r.get("height"))]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        list(pool.map(fill, missing))
