#!/usr/bin/env python
"""Rerun a row of a paper's table, and see it beside the paper's number.

python tools/reproduce.py --list 'dupr-voc-*'
python tools/reproduce.py dupr-voc-dupr --num-gpus 8
python tools/reproduce.py joindet-few-1pct-joindet --weights swav_800ep_pretrain.pth.tar --seeds 0 1
python tools/reproduce.py dupr-voc-dupr --pretrained dupr.pth finetune:train.amp.enabled=true
python tools/reproduce.py toy-detector-detreg --scale 0.1
python tools/reproduce.py dupr-voc-moco dupr-voc-dupr --dry-run

The same command goes on where it was stopped. docs/reproduce.md lists all rows.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

__registers_later__ = True  # main does: --help and --list answer before torch is imported

import d2_unsupdet
from d2_unsupdet.cli import Parser, positive, run_tool
from d2_unsupdet.errors import UserError
from d2_unsupdet.protocols import Row, papers, rows, select
from d2_unsupdet.protocols.listing import listed
from d2_unsupdet.protocols.options import Options, check_use
from d2_unsupdet.protocols.page import PAGE, page


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="ROW or [pretrain:|finetune:]key=value",
        help="ids of rows or shell patterns ('dupr-voc-*'), and overrides",
    )
    parser.add_argument(
        "--list", action="store_true", help="rows, their numbers, and what --output has of them"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="commands, score and files; runs nothing"
    )
    parser.add_argument("--docs", action="store_true", help=argparse.SUPPRESS)  # in CONTRIBUTING
    parser.add_argument("--weights", default="", metavar="FILE", help="the row's starting weights")
    parser.add_argument(
        "--pretrained", default="", metavar="FILE", help="instead of the row's pretraining"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="of the finetuning")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="0.01: a trial of a hundredth of all lengths"
    )
    parser.add_argument("--num-gpus", type=positive, default=1, help="processes a training")
    parser.add_argument("--output", type=Path, default=Path("output/reproduce"))
    args = parser.parse_intermixed_args(argv)
    args.rows = [word for word in args.words if "=" not in word]
    args.opts = [word for word in args.words if "=" in word]
    return args


def options_of(args: argparse.Namespace) -> Options:
    """What the user asked for, paths as they are seen from here."""

    def absolute(file: str) -> str:
        return str(Path(file).expanduser().resolve()) if file else ""

    return Options(
        output=args.output,
        weights=absolute(args.weights),
        pretrained=absolute(args.pretrained),
        seeds=tuple(args.seeds),
        scale=args.scale,
        num_gpus=args.num_gpus,
        overrides=tuple(args.opts),
    )


def selected(patterns: Sequence[str]) -> list[Row]:
    """Rows of several ids or patterns, each once."""
    found = {row.id: row for pattern in patterns for row in select(pattern)}
    return list(found.values())


def several(chosen: Sequence[Row], options: Options) -> list[Row]:
    """Those of a pattern that can be run; one file of weights is that of one kind of start."""
    starts = sorted({row.start for row in chosen if not row.cited})
    if options.weights and len(starts) > 1:
        raise UserError(
            f"--weights={options.weights} cannot be the start of all of these rows, which begin "
            f"with {', '.join(starts)}: put a file of each into the folder of $D2_UNSUPDET_WEIGHTS."
        )
    return [row for row in chosen if not row.cited]


def write_page(*, dry_run: bool) -> None:
    """docs/reproduce.md from the rows."""
    text = page(papers())
    if dry_run:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print(f"{PAGE} {'would stay as it is' if same else 'would change'}")
        return
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE} ({len(list(rows()))} rows)")


def main(argv: Sequence[str] | None = None) -> None:
    """List, write the page, print commands, or run."""
    args = parse(argv)
    if args.docs:
        write_page(dry_run=args.dry_run)
        return
    if args.list:
        print(listed(selected(args.rows or ["*"]), args.output))
        return
    if not args.rows:
        raise UserError("Which row? --list shows them, docs/reproduce.md in order.")
    options, chosen = options_of(args), selected(args.rows)
    if len(chosen) > 1:
        chosen = several(chosen, options)
    check_use(chosen, options)
    d2_unsupdet.register_all()
    from d2_unsupdet.protocols.preview import described
    from d2_unsupdet.protocols.run import run_row
    from d2_unsupdet.protocols.scores import shown
    from d2_unsupdet.protocols.stages import plan

    for number, row in enumerate(chosen):
        if args.dry_run:
            print("\n" * bool(number) + described(row, options), flush=True)
        else:
            compared = run_row(row, options)
            folders = shlex.join(str(s.folder) for s in plan(row, options) if s.kind != "boxes")
            print(f"\n{shown(row, compared, options.scale)}")
            print(f"\npython -m d2_unsupdet.analysis.report {folders}", flush=True)


if __name__ == "__main__":
    run_tool(main)
