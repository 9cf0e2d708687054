#!/usr/bin/env python
"""Score box sources on labelled data: AP, AP50, AP75, AR@1, AR@10 and AR@100 without classes.

python tools/evaluate_boxes.py --dataset coco_2017_val --source random selective-search edge-boxes
python tools/evaluate_boxes.py --dataset toy_val --source random:count=100 --source my.code:Finder
python tools/evaluate_boxes.py --dataset coco_2017_train --store priors/coco output/run/priors@3

A store must hold the images of the data set; its last generation is scored, or STORE@NUMBER.
A source may carry its values, NAME:key=value,key=value. A detector that was pretrained is scored by
train_net.py --eval-only, by the same numbers.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from d2_unsupdet.checkpoint import write_json
from d2_unsupdet.cli import Parser, positive, run_tool
from d2_unsupdet.evaluation.boxes import score_source, table
from d2_unsupdet.priors import BoxSource, StoredBoxes
from d2_unsupdet.priors.by_name import NAMES, source_by_name

COLUMNS = ("AP", "AP50", "AP75")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="name of a labelled data set")
    parser.add_argument(
        "--source",
        nargs="+",
        default=[],
        action="extend",
        metavar="NAME[:key=value,...]",
        help=f"{', '.join(NAMES)}, or module:Class",
    )
    parser.add_argument(
        "--store", nargs="+", default=[], metavar="FOLDER[@NUMBER]", help="extracted boxes"
    )
    parser.add_argument("--limit", type=positive, default=100, help="boxes an image (100)")
    parser.add_argument(
        "--scores",
        choices=("rank", "own"),
        default="rank",
        help="what orders boxes of different images in AP: their rank (default) or own score",
    )
    parser.add_argument("--subset", help="of the images: 500, 10%%, 10%%@seed1")
    parser.add_argument("--seed", type=int, default=0, help="of sources that draw")
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    parser.add_argument("--out", type=Path, help="folder for the scores and boxes as JSON")
    args = parser.parse_args(argv)
    if not args.source and not args.store:
        parser.error("nothing to score: give --source or --store")
    return args


def stored(text: str) -> BoxSource:
    """FOLDER or FOLDER@NUMBER."""
    folder, at, number = text.rpartition("@")
    if at and number.isdigit():
        return StoredBoxes(path=folder, generation=int(number))
    return StoredBoxes(path=text)


def main(argv: Sequence[str] | None = None) -> None:
    """Find, score, print, write."""
    args = parse(argv)
    sources = {text: source_by_name(text) for text in args.source}
    sources |= {text: stored(text) for text in args.store}
    results = {}
    for number, (label, source) in enumerate(sources.items()):
        print(f"{label} on {args.dataset}")
        results[label] = score_source(
            source,
            args.dataset,
            subset=args.subset,
            limit=args.limit,
            by_rank=args.scores == "rank",
            seed=args.seed,
            workers=args.workers,
            output_dir=str(args.out / f"boxes_{number}") if args.out else None,
        )
    recalls = [f"AR@{n}" for n in sorted({1, 10, args.limit})]
    print(f"\nper cent, classes ignored\n{table(results, [*COLUMNS, *recalls])}")
    if args.out:
        settings = {"dataset": args.dataset, "subset": args.subset, "limit": args.limit}
        settings |= {"scores": args.scores, "seed": args.seed}
        path = args.out / "boxes.json"
        write_json(path, {"settings": settings, "results": results})
        print(f"wrote {path}")


if __name__ == "__main__":
    run_tool(main)
