#!/usr/bin/env python
"""Write the image ids of label subsets, to be used again here or by other code.

python datasets/subset_ids.py voc_2012_trainval 10% 30% 50% 70% --seeds 0 1 2 --out datasets/subsets

A run takes one as dataloader.train.dataset.subset=ids:FILE. Without a file the same subset is
subset=10%@seed1: which images is a function of seed and image id alone.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from d2_unsupdet.cli import Parser, run_tool
from d2_unsupdet.data import catalog
from d2_unsupdet.data.subsets import STANDARD, parse, save_ids, select

STANDARD_SIZES = [f"{100 * share:g}%" for share in STANDARD]


def main(argv: Sequence[str] | None = None) -> None:
    """Draw, save, say where."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="registered name, or several joined by commas")
    parser.add_argument(
        "sizes",
        nargs="*",
        default=STANDARD_SIZES,
        help="like 10%%, 50 or 10%%+every_class; default: all that papers report",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="default: 0")
    parser.add_argument("--out", type=Path, default=Path("datasets/subsets"), help="folder")
    args = parser.parse_args(argv)
    records = catalog.get_dataset(args.dataset)
    args.out.mkdir(parents=True, exist_ok=True)
    for size in args.sizes:
        for seed in args.seeds:
            number, plus, cover = size.partition("+")
            spec = f"{number}@seed{seed}{plus}{cover}"
            chosen = select(records, parse(spec))
            path = args.out / file_name(args.dataset, spec)
            save_ids(path, chosen, dataset=args.dataset, subset=spec)
            print(f"{path}: {len(chosen):,} of {len(records):,} images")


def file_name(dataset: str, spec: str) -> str:
    """voc_2012_trainval_10pct_seed1.json"""
    text = f"{dataset}_{spec}".replace("%", "pct").replace("@", "_")
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_") + ".json"


if __name__ == "__main__":
    run_tool(main)
