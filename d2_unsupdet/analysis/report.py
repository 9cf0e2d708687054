"""One self-contained page about one or many runs, finished or not.

    python -m d2_unsupdet.analysis.report RUN [RUN ...] --out report.html [--baseline RUN]

It opens without a network and is whole without scripts: curves are inline SVG, pictures base64. A
policy in the page itself forbids it to load anything or to run any script but its own.
"""

import base64
import datetime
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from d2_unsupdet.analysis import overview, score_table
from d2_unsupdet.analysis.charts import curves
from d2_unsupdet.analysis.convergence import group_runs
from d2_unsupdet.analysis.figures import Gallery
from d2_unsupdet.analysis.run_details import run_details
from d2_unsupdet.analysis.runs import Run, is_run, read_runs
from d2_unsupdet.analysis.scored_on import mixed
from d2_unsupdet.analysis.settings import find_setting, group_settings, repeated
from d2_unsupdet.analysis.strips import strips
from d2_unsupdet.checkpoint.files import atomic_write
from d2_unsupdet.cli import Parser, run_tool
from d2_unsupdet.errors import UserError

_PAGE = Path(__file__).with_name("page")


def write_report(
    run_paths: Sequence[str | Path],
    out: str | Path,
    *,
    title: str | None = None,
    baseline: str | None = None,
    max_pictures: int | None = None,
    labels: Mapping[str, str] | None = None,
) -> Path:
    """Read run folders and write the page; the old page stays until the new one is complete.

    Args:
        run_paths: folders of runs.
        out: the page.
        title: its heading.
        baseline: setting or run that scores are compared with.
        max_pictures: of each group and run; None divides what a page can hold.
        labels: folder -> name of its setting; those of one name are its seeds.
    """
    runs = read_runs(list(run_paths))
    named = {run.name: labels[str(run.path)] for run in runs if labels and str(run.path) in labels}
    folder = Path(out).parent
    if not folder.parent.exists():
        raise UserError(
            f"The page cannot be written to '{out}': there is no folder '{folder.parent}'; make it "
            "first, or check the path for a mistake."
        )
    page = build_page(
        runs,
        title=title,
        baseline=baseline,
        max_pictures=max_pictures,
        labels=named,
        folder=folder,
    )
    folder.mkdir(exist_ok=True)
    atomic_write(out, lambda file: file.write(page.encode("utf-8", "replace")))
    return Path(out)


def build_page(
    runs: Sequence[Run],
    *,
    title: str | None = None,
    baseline: str | None = None,
    max_pictures: int | None = None,
    labels: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """The page as text; `labels` are by the runs' names, links to files start from `folder`."""
    title = title or (f"Run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs compared")
    settings = group_settings(runs, labels)
    base = find_setting(settings, baseline)
    runs = score_table.runs_of(settings)
    gallery = Gallery(runs, max_pictures)
    pictures = gallery.html()
    remarks = [f"{run.name}: {note}" for run in runs for note in run.notes]
    sections = {
        "Summary": overview.cards(settings, base)
        + strips(settings)
        + overview.run_table(settings)
        + _notes(remarks + repeated(settings) + mixed(settings) + gallery.notes)
        + overview.environments(runs),
        "Scores": score_table.score_table(settings, base)
        + score_table.seed_table(settings)
        + score_table.all_scores(settings),
        "Curves": curves(settings),
        "Pictures": pictures,
        "Runs": run_details(settings, folder),
    }
    made = datetime.datetime.now().astimezone().strftime("%d %B %Y, %H:%M").lstrip("0")
    count = "one run" if len(runs) == 1 else f"{len(runs)} runs"
    kinds = "one setting" if len(settings) == 1 else f"{len(settings)} settings"
    several = "" if len(settings) == len(runs) else f" of {kinds}"
    about = f"d2_unsupdet report on {count}{several}, made on {made}"
    return _document(title, about, {name: body for name, body in sections.items() if body})


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = Parser(prog="python -m d2_unsupdet.analysis.report", description="A page about runs.")
    parser.add_argument(
        "runs", nargs="+", metavar="[LABEL=]RUN", help="folder of a run; one label: seeds of it"
    )
    parser.add_argument("--out", default="report.html", help="the page to write")
    parser.add_argument("--title", help="heading of the page")
    parser.add_argument("--baseline", help="label, name or folder of what scores are compared with")
    parser.add_argument(
        "--max-pictures", type=int, help="of each group and run; else what a page can hold"
    )
    args = parser.parse_args(argv)
    folders, labels = named_runs(args.runs)
    path = write_report(
        folders,
        args.out,
        title=args.title,
        baseline=args.baseline,
        max_pictures=args.max_pictures,
        labels=labels,
    )
    print(path.resolve())


def named_runs(words: Sequence[str]) -> tuple[list[Path], dict[str, str]]:
    """Folders from `RUN` and `LABEL=RUN`, either with shell wildcards, and the label of each."""
    folders: list[Path] = []
    labels: dict[str, str] = {}
    for word in words:
        if Path(word).is_dir():
            found, label = [Path(word)], ""
        else:
            label = word.partition("=")[0] if "=" in word else ""
            found = [path for group in group_runs([word]).values() for path in group]
            # A pattern may also find what stands between the runs.
            found = [path for path in found if is_run(path)] or found
        folders += found
        for path in found:
            if not is_run(path):
                raise UserError(
                    f"The folder '{path}' is no run: no config.yaml, metrics.json or summary.json; "
                    "give a train.output_dir."
                )
        labels |= {str(path): label for path in found if label}
    return folders, labels


def _notes(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="notes" aria-label="Remarks">{items}</ul>' if items else ""


def _document(title: str, about: str, sections: Mapping[str, str]) -> str:
    style = (_PAGE / "report.css").read_text(encoding="utf-8")
    script = (_PAGE / "report.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hashed(style)}; "
        f"script-src {_hashed(script)}; base-uri 'none'; form-action 'none'"
    )
    links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name in sections)
    body = "".join(
        f'<section id="{name.lower()}" aria-labelledby="{name.lower()}-h">'
        f'<h2 id="{name.lower()}-h">{name}</h2>{content}</section>'
        for name, content in sections.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{style}</style><script>{script}</script></head>"
        '<body><a class="skip" href="#main">Skip to the content</a>'
        f'<header><div><h1>{escape(title)}</h1><p class="dim">{escape(about)}</p></div></header>'
        f'<nav aria-label="Sections"><div>{links}</div></nav><main id="main">{body}</main>'
        "<footer>Scores are percentages; values are those of the runs' own logs.</footer>"
        "</body></html>"
    )


def _hashed(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


if __name__ == "__main__":
    run_tool(main)
