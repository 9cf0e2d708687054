"""What is looked at: the data of the finetunings, and whether data is what it was."""

import argparse
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from d2_unsupdet.checkpoint.files import write_json
from d2_unsupdet.data import catalog

from .runs import ROOT, SCALES, Run


def bccd_places(given: Path | None) -> list[Path]:
    """Where bccd may be: what was asked for, else the root of data sets, else beside the clone."""
    return [given] if given else [catalog.datasets_root() / "bccd", ROOT / "../shared/data/bccd"]


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


def resized(short: int, long: int) -> list[str]:
    """Overrides of the sides that the detector sees."""
    first = "mapper.augmentations.0"
    return [
        f"dataloader.train.{first}.short_edge_length=[{short}]",
        f"dataloader.train.{first}.max_size={long}",
        f"dataloader.test.{first}.short_edge_length={short}",
        f"dataloader.test.{first}.max_size={long}",
    ]


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
            places = bccd_places(options.bccd)
            there = [p for p in places if (p / "annotations" / "train.json").is_file()]
            if not there:
                print(f"left out: bccd, which is not in '{places[0]}' (--bccd)")
                continue
            found[name] = bccd_overrides(there[0].resolve(), options.output)
        edges = SCALES[options.scale].edges[name]
        found[name] += resized(*edges) if edges else []
    return found


def data_of(run: Run) -> dict[str, str]:
    """Fingerprints of the run's data sets that are named by a path, whose files may change.

    They are kept beside a result instead of deciding its key, so that a touched folder throws no
    result away.
    """
    loaders: dict[str, Any] = run.config_tree["dataloader"]
    parts = (loaders.get(part) for part in ("train", "test"))
    names = [n for part in parts if part for n in catalog.split_names(part["dataset"]["names"])]
    return {n: fingerprint(n) for n in names if ":" in n and not n.startswith("toy_")}


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
