"""What is looked at: the data of the finetunings, and whether data is what it was."""

import argparse
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from d2_unsupdet.checkpoint.files import write_json
from d2_unsupdet.data import catalog
from d2_unsupdet.priors import PriorStore

from .backbones import SCALES
from .runs import ROOT, Run


def places(name: str, given: Path | None) -> list[Path]:
    """Where it may be: what was asked for, else the data sets' root, else beside the clone."""
    return [given] if given else [catalog.datasets_root() / name, ROOT / "../shared/data" / name]


def find(name: str, given: Path | None, inside: str) -> Path | None:
    """The first of its places that has `inside`; where there is none, that is said."""
    possible = places(name, given)
    for place in possible:
        if (place / inside).exists():
            return place.resolve()
    print(f"left out: {name}, which is not in '{possible[0]}' (--{name.removeprefix('playing_')})")
    return None


def bccd_overrides(folder: Path, output: Path) -> list[str]:
    """Labels from the training images, scores on all others, which come in two files."""
    parts = [json.loads((folder / f"annotations/{n}.json").read_text()) for n in ("val", "test")]
    rest = {**parts[0]}
    rest["images"] = [image for part in parts for image in part["images"]]
    joined = [box for part in parts for box in part["annotations"]]
    rest["annotations"] = [{**box, "id": number} for number, box in enumerate(joined, start=1)]
    path = output / "bccd_rest.json"
    write_json(path, rest)
    train = folder / "annotations/train.json"
    return [
        f"dataloader.train.dataset.names=coco:{train}@{folder / 'images'}",
        f"dataloader.test.dataset.names=coco:{path}@{folder / 'images'}",
    ]


def cards_overrides(folder: Path) -> list[str]:
    """Its own training and test images."""
    data = "dataloader.{}.dataset.names=coco:{}@{}"
    return [
        data.format(part, folder / f"annotations/{part}.json", folder / "images")
        for part in ("train", "test")
    ]


def resized(part: str, short: int, long: int) -> list[str]:
    """Overrides of the sides that the detector sees in "train" or "test"."""
    first = f"dataloader.{part}.mapper.augmentations.0"
    wanted = f"[{short}]" if part == "train" else f"{short}"
    return [f"{first}.short_edge_length={wanted}", f"{first}.max_size={long}"]


def choose_targets(options: argparse.Namespace) -> dict[str, list[str]]:
    """Overrides of the finetuning by target; a target that is not on disk is said and left out."""
    found: dict[str, list[str]] = {}
    for name in options.targets:
        if name == "toy":
            # The small recipe is written for it.
            data = "dataloader.{}.dataset.names=toy_{}"
            train, test = data.format("train", "train"), data.format("test", "val")
            own = options.scale == "quickstart"
            found[name] = [f"{test}:images=8"] if options.quick else [] if own else [train, test]
        else:
            folder = find("bccd", options.bccd, "annotations/train.json")
            if folder is None:
                continue
            found[name] = bccd_overrides(folder, options.output)
        edges = SCALES[options.scale].edges[name]
        for part in ("train", "test") if edges else ():
            found[name] += resized(part, *edges)
    return found


def data_of(run: Run) -> dict[str, str]:
    """Fingerprints of the run's data sets that are named by a path, whose files may change.

    They are kept beside a result instead of deciding its key, so that a touched folder throws no
    result away.
    """
    loaders: dict[str, Any] = run.config_tree["dataloader"]
    parts = (loaders.get(part) for part in ("train", "test"))
    names = [n for part in parts if part for n in catalog.split_names(part["dataset"]["names"])]
    found = {n: fingerprint(n) for n in names if ":" in n and not n.startswith("toy_")}
    if run.boxes is not None:
        found["boxes"] = PriorStore(run.boxes).open().sha256
    return found


@cache
def fingerprint(name: str) -> str:
    """Number of images, their bytes, a hash of names, sizes and labels; no pixel is read."""
    digest, total = hashlib.sha256(), 0
    records = catalog.get_dataset(name)
    for record in records:
        path = Path(record["file_name"])
        size = path.stat().st_size if path.is_file() else -1
        total += max(size, 0)
        labels = [record.get(key) for key in ("label", "annotations")]
        digest.update(json.dumps([path.name, size, labels], default=str).encode())
    return f"{len(records)} images, {total} bytes, {digest.hexdigest()[:10]}"
