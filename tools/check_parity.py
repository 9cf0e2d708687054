#!/usr/bin/env python
"""Compare our detectors, pretexts and operators with golden outputs of the official code.

Each model is built from our config, its weights are made under the official names and converted.
Every recorded array gets a row: name, kind, largest absolute and relative difference, tolerance.
Arrays that say nothing about ours are listed apart; the last line counts none of them.
"""

import argparse
from pathlib import Path

from d2_unsupdet.cli import Parser, run_tool
from d2_unsupdet.parity.directory import Outcome, check_directory


def parser() -> Parser:
    """The command line."""
    result = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("folder", type=Path, metavar="DIR", help="golden files, *.json and *.npz")
    result.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these files alone")
    result.add_argument("--skip", nargs="+", default=[], metavar="NAME", help="all but these files")
    result.add_argument("--failures", action="store_true", help="print only rows that fail")
    return result


def main() -> int:
    """0 if every row passes."""
    args = parser().parse_args()
    passed = failures = 0
    for outcome in check_directory(args.folder, args.only, skip=args.skip):
        good = sum(row.passed for row in outcome.rows)
        passed, failures = passed + good, failures + len(outcome.rows) - good
        _print(outcome, good, only_failures=args.failures)
    print(f"{passed} passed, {failures} failed")
    return int(failures > 0 or passed == 0)


def _print(outcome: Outcome, good: int, *, only_failures: bool) -> None:
    if outcome.skipped:
        print(f"{outcome.name}: not compared here, {outcome.skipped}", flush=True)
        return
    print(f"{outcome.name} ({outcome.repository}): {good} of {len(outcome.rows)} rows pass")
    for row in outcome.rows:
        if not (only_failures and row.passed):
            print(f"  {row}", flush=True)
    for why in dict.fromkeys(aside.why for aside in outcome.asides):
        names = [aside.name for aside in outcome.asides if aside.why == why]
        print(f"  reference only, not counted, {why}: {', '.join(names)}", flush=True)
    if outcome.left:
        print(f"  without a counterpart here: {', '.join(outcome.left)}", flush=True)


if __name__ == "__main__":
    run_tool(main)
