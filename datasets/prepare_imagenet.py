"""A tree of links to ImageNet in class folders: all of it, or the classes of a list (ImageNet-100).

    python datasets/prepare_imagenet.py ILSVRC/Data/CLS-LOC datasets/imagenet --val-labels FILE
    python datasets/prepare_imagenet.py datasets/imagenet datasets/imagenet100 \\
        --classes datasets/imagenet100_classes.txt

The official validation images lie in one flat folder; `--val-labels` names either the folder with
their XML files (Annotations/CLS-LOC/val) or a text file with lines `<file name> <class folder>`.
"""

import argparse
import os
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

__registers_later__ = True  # never, in fact: links need no torch
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, installed or not

from d2_unsupdet.cli import Parser, run_tool
from d2_unsupdet.errors import UserError


def read_classes(path: Path) -> list[str]:
    """One class folder a line; what follows a space or a # is a remark."""
    lines = (line.split("#")[0].split() for line in path.read_text().splitlines())
    return [parts[0] for parts in lines if parts]


def validation_classes(path: Path) -> dict[str, str]:
    """Stem of a validation image -> its class folder."""
    if path.is_dir():
        names = {x.stem: ET.parse(x).findtext("object/name") for x in path.glob("*.xml")}
        return {stem: name for stem, name in names.items() if name}
    pairs = (line.replace(",", " ").split()[:2] for line in path.read_text().splitlines())
    return {Path(pair[0]).stem: pair[1] for pair in pairs if len(pair) == 2}


def link_folders(source: Path, target: Path, classes: list[str] | None) -> int:
    """Link class folders of one split; return how many."""
    present = {p.name for p in source.iterdir() if p.is_dir()}
    missing = sorted(set(classes or ()) - present)
    if missing:
        raise UserError(f"{source} lacks {len(missing)} listed classes, {missing[0]} for one.")
    target.mkdir(parents=True, exist_ok=True)
    for name in sorted(present if classes is None else set(classes)):
        _link(source / name, target / name)
    return len(list(target.iterdir()))


def link_flat(source: Path, target: Path, labels: dict[str, str], classes: list[str] | None) -> int:
    """Link the images of a flat folder into class folders; return how many classes."""
    for image in sorted(source.iterdir()):
        name = labels.get(image.stem)
        if name is None:
            raise UserError(f"The validation labels do not name {image.name}.")
        if classes is None or name in classes:
            (target / name).mkdir(parents=True, exist_ok=True)
            _link(image, target / name / image.name)
    return len(list(target.iterdir()))


def prepare(
    source: Path, target: Path, classes: list[str] | None, val_labels: Path | None
) -> dict[str, int]:
    """Link `train` and `val`; return the number of classes of each split that is there."""
    counts = {}
    for split in ("train", "val"):
        folder = source / split
        if not folder.is_dir():
            continue
        if any(entry.is_dir() for entry in os.scandir(folder)):
            counts[split] = link_folders(folder, target / split, classes)
        elif val_labels is not None:
            labels = validation_classes(val_labels)
            counts[split] = link_flat(folder, target / split, labels, classes)
        else:
            raise UserError(f"{folder} has no class folders; give its labels by --val-labels.")
    if not counts:
        raise UserError(f"{source} holds neither train nor val.")
    return counts


def _link(source: Path, target: Path) -> None:
    if not target.is_symlink():
        target.symlink_to(source.resolve())


def main() -> None:
    """Command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with train and val")
    parser.add_argument("target", type=Path, help="folder to make")
    parser.add_argument("--classes", type=Path, help="text file, one class folder a line")
    parser.add_argument("--val-labels", type=Path, help="XML folder or text file")
    options = parser.parse_args()
    classes = read_classes(options.classes) if options.classes else None
    counts = prepare(options.source, options.target, classes, options.val_labels)
    sys.stdout.write(", ".join(f"{split}: {n} classes" for split, n in counts.items()) + "\n")


if __name__ == "__main__":
    run_tool(main)
