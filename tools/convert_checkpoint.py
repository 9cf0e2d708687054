#!/usr/bin/env python
"""Convert weights between layouts: torchvision, MoCo, SwAV, DETRs, their pretexts, Detectron2, ...

The suffix of DST (.safetensors, .pkl or .pth) says in which kind of file they are written.
"""

import argparse
from pathlib import Path

from d2_unsupdet.checkpoint import FORMATS, convert, read_weights, write_weights
from d2_unsupdet.cli import Parser, run_tool


def parser() -> Parser:
    """The command line."""
    known = "\n".join(f"  {entry.name:22} {entry.about}" for entry in FORMATS.values())
    result = Parser(
        description=__doc__,
        epilog=f"formats:\n{known}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("src", type=Path, metavar="SRC")
    result.add_argument("dst", type=Path, metavar="DST")
    result.add_argument("--from", dest="source", metavar="F", help="layout of SRC (detected)")
    result.add_argument(
        "--to",
        dest="target",
        metavar="F",
        default="detectron2",
        help="of DST; pretext keeps a pretraining model whole (up_detr, detreg, siamese_detr)",
    )
    result.add_argument(
        "--classes",
        metavar="C",
        default="keep",
        help="class heads of a DETR: keep, coco80 (91 COCO ids to 80), drop, or a JSON file "
        "with a list of row numbers; with --to pretext also object, the one class of ours",
    )
    result.add_argument("--sha256", metavar="HEX", help="refuse SRC if this is not its hash")
    result.add_argument(
        "--allow-unsafe",
        action="store_true",
        help="run code that SRC brings (only if you trust it)",
    )
    return result


def main() -> None:
    """Read, convert, write, report."""
    args = parser().parse_args()
    loaded = read_weights(args.src, allow_unsafe=args.allow_unsafe, expected_sha256=args.sha256)
    state, report = convert(loaded.state, args.source, args.target, classes=args.classes)
    write_weights(args.dst, state, meta={"source": args.src.name, "layout": report.target})
    print(f"{report}\nwrote {args.dst}")


if __name__ == "__main__":
    run_tool(main)
