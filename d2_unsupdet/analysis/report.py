"""One self-contained page about one or many runs, finished or not.

    python -m d2_unsupdet.analysis.report RUN [RUN ...] --out report.html [--baseline RUN]

It opens without a network and without scripts: curves are inline SVG, pictures base64.
"""

import argparse
import datetime
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from d2_unsupdet.analysis import tables
from d2_unsupdet.analysis.curves import Chart, Series, draw_chart
from d2_unsupdet.analysis.figures import gallery
from d2_unsupdet.analysis.runs import Run, is_score, read_runs
from d2_unsupdet.analysis.style import SCRIPT, STYLE
from d2_unsupdet.checkpoint.files import atomic_write
from d2_unsupdet.errors import UserError, nearest

_KINDS = {"pretrain": "Pretraining", "finetune": "Finetuning", "run": "Training"}
_UNCHARTED = {"eta_seconds", "data_time", "time", "epoch", "rank_data_time"}


def write_report(
    run_paths: Sequence[str | Path],
    out: str | Path,
    *,
    title: str | None = None,
    baseline: str | None = None,
    max_pictures: int = 12,
) -> Path:
    """Read run folders and write the page; the old page stays until the new one is complete."""
    runs = read_runs(list(run_paths))
    page = build_page(runs, title=title, baseline=baseline, max_pictures=max_pictures)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, lambda file: file.write(page.encode("utf-8", "replace")))
    return Path(out)


def build_page(
    runs: Sequence[Run],
    *,
    title: str | None = None,
    baseline: str | None = None,
    max_pictures: int = 12,
) -> str:
    """The page as text. `baseline` is a run's name or path; differences are to its scores."""
    title = title or (f"Run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs compared")
    base = find_baseline(runs, baseline)
    numbers = {run.name: i for i, run in enumerate(runs)}
    pictures, remarks = gallery(runs, max_pictures)
    unscored = {run.kind for run in runs if not run.scores}
    sections = {
        "Summary": tables.cards(runs, base) + _notes(runs, remarks),
        "Scores": tables.score_table(runs, base, numbers) + tables.all_scores(runs),
        ("Pretraining" if unscored == {"pretrain"} else "Training"): tables.pretrain_table(
            runs, numbers
        ),
        "Curves": _curves(runs, numbers),
        "Pictures": pictures,
        "Runs": "".join(map(_run_details, runs)),
    }
    sections = {name: body for name, body in sections.items() if body}
    links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name in sections)
    body = "".join(
        f'<section id="{name.lower()}" aria-labelledby="{name.lower()}-h">'
        f'<h2 id="{name.lower()}-h">{name}</h2>{content}</section>'
        for name, content in sections.items()
    )
    made = datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M")
    count = "one run" if len(runs) == 1 else f"{len(runs)} runs"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        '<a class="skip" href="#main">Skip to the content</a>'
        f"<header><div><h1>{escape(title)}</h1>"
        f'<p class="dim">d2_unsupdet report on {count}, made on {made}</p></div></header>'
        f'<nav aria-label="Sections"><div>{links}</div></nav><main id="main">{body}</main>'
        "<footer>Scores are percentages. Values are those of the runs' own logs.</footer>"
        f"<script>{SCRIPT}</script></body></html>"
    )


def find_baseline(runs: Sequence[Run], wanted: str | None) -> Run | None:
    """The run of that name or path; an unknown one is an error that names the nearest."""
    if wanted is None:
        return None
    for run in runs:
        if wanted in (run.name, str(run.path)) or Path(wanted).resolve() == run.path.resolve():
            return run
    names = [run.name for run in runs]
    hint = nearest(wanted, names) or f" Use one of {', '.join(names)}."
    raise UserError(f"The baseline '{wanted}' is not one of the runs.{hint}")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 after a mistake that one sentence explains."""
    parser = argparse.ArgumentParser(
        prog="python -m d2_unsupdet.analysis.report", description="A page about runs."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--out", default="report.html", help="the page to write")
    parser.add_argument("--title", help="heading of the page")
    parser.add_argument("--baseline", help="name or folder of the run to compare with")
    parser.add_argument(
        "--max-pictures", type=int, default=12, help="pictures of each group and run"
    )
    args = parser.parse_args(argv)
    try:
        for run in args.runs:
            if not Path(run).is_dir():
                raise UserError(f"There is no run folder '{run}'.")
        path = write_report(
            args.runs,
            args.out,
            title=args.title,
            baseline=args.baseline,
            max_pictures=args.max_pictures,
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(path.resolve())
    return 0


def _notes(runs: Sequence[Run], remarks: Sequence[str]) -> str:
    sentences = [f"{run.name}: {note}" for run in runs for note in run.notes] + list(remarks)
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="notes" aria-label="Remarks">{items}</ul>' if items else ""


def _curves(runs: Sequence[Run], numbers: dict[str, int]) -> str:
    """Charts by kind of run: the losses of pretraining and finetuning do not share an axis."""
    parts = []
    kinds = dict.fromkeys(run.kind for run in runs)
    for kind in sorted(kinds, key=lambda k: k != "pretrain"):
        own = [run for run in runs if run.kind == kind]
        names = dict.fromkeys(name for run in own for name in run.curves)
        main_names = [n for n in names if _is_main_score(n) and _is_curve(n, own)]
        main_names += [n for n in ("total_loss", "lr") if n in names]
        others = [n for n in names if n not in main_names and _is_shown(n, own)]
        if not main_names and not others:
            continue
        heading = escape(_KINDS.get(kind, kind.capitalize()))
        parts.append(f'<h3>{heading}</h3><div class="charts">')
        parts += [_chart(name, own, numbers, f"{kind}-{i}") for i, name in enumerate(main_names)]
        parts.append("</div>")
        if others:
            charts = "".join(
                _chart(name, own, numbers, f"{kind}-more-{i}") for i, name in enumerate(others)
            )
            parts.append(
                f"<details><summary>More curves ({len(others)})</summary>"
                f'<div class="charts">{charts}</div></details>'
            )
    return "".join(parts)


def _chart(name: str, runs: Sequence[Run], numbers: dict[str, int], chart_id: str) -> str:
    titles = {"total_loss": "Total loss", "lr": "Learning rate"}
    title = tables.score_title(name) if is_score(name) else titles.get(name, name)
    series = [Series(run.name, run.curves.get(name, []), numbers[run.name]) for run in runs]
    safe_id = "".join(c if c.isalnum() or c == "-" else "_" for c in chart_id)
    return draw_chart(Chart(title, series), safe_id)


def _is_main_score(name: str) -> bool:
    if name.endswith("_agnostic/AR@100"):
        return True
    return is_score(name) and name.rsplit("/", 1)[-1] in ("AP", "AP50", "mIoU")


def _is_curve(name: str, runs: Sequence[Run]) -> bool:
    """A single evaluation stands in the table already."""
    return any(len(run.curves.get(name, ())) > 1 for run in runs)


def _is_shown(name: str, runs: Sequence[Run]) -> bool:
    if name in _UNCHARTED or "-" in name.rsplit("/", 1)[-1]:
        return False
    return _is_curve(name, runs)


def _run_details(run: Run) -> str:
    parts = [f'<article class="run"><h3>{escape(run.name)}</h3>']
    told = {key: value for key, value in run.summary.items() if key != "result"}  # in the tables
    parts.append(tables.definitions({"folder": str(run.path), **told}))
    if run.command:
        parts.append(f"<p>Command</p><pre class='wrap' tabindex='0'>{escape(run.command)}</pre>")
    if run.environment:
        inner = tables.definitions(run.environment)
        parts.append(f"<details><summary>Environment</summary>{inner}</details>")
    if run.config:
        text = f"<pre tabindex='0'>{escape(run.config)}</pre>"
        parts.append(f"<details><summary>Configuration</summary>{text}</details>")
    return "".join(parts) + "</article>"


if __name__ == "__main__":
    sys.exit(main())
