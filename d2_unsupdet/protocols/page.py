"""docs/reproduce.md, written from the rows: `python tools/reproduce.py --docs`."""

import textwrap
from collections.abc import Iterator, Sequence

from d2_unsupdet.protocols.rows import TABLES, Paper, Recipe, Row, Table
from d2_unsupdet.protocols.stages import ROOT

PAGE = ROOT / "docs" / "reproduce.md"
WIDTH = 110
NOT_SCORED = ("cost/", "few_shot/")  # columns of rows that are cited alone


def page(papers: Sequence[Paper]) -> str:
    """The whole page."""
    intro = (TABLES / "intro.md").read_text(encoding="utf-8")
    parts = [intro.replace("<!-- contents -->", contents(papers))]
    parts += [section(paper) for paper in papers]
    return "\n".join(parts).rstrip() + "\n"


def contents(papers: Sequence[Paper]) -> str:
    """Papers, how many rows each has, and how many of these were run."""
    lines = ["| paper | tables | rows | cited only | run here |", "|---|---|---|---|---|"]
    for paper in papers:
        rows = [row for table in paper.tables for row in table.rows]
        cited, ours = sum(bool(row.cited) for row in rows), sum(bool(row.ours) for row in rows)
        link = f"[{paper.name}](#{anchor(paper.name)})"
        lines.append(f"| {link} | {len(paper.tables)} | {len(rows)} | {cited} | {ours} |")
    return "\n".join(lines)


def anchor(heading: str) -> str:
    """As sites that show Markdown make it of a heading."""
    kept = (c for c in heading.lower() if c.isalnum() or c in " -_")
    return "".join(kept).replace(" ", "-")


def section(paper: Paper) -> str:
    """A paper with its tables."""
    title = f"[*{paper.title}*]({paper.link})" if paper.link else f"*{paper.title}*"
    begin = f"## {paper.name}\n\n{wrapped(f'{title}. {paper.about}')}"
    return begin + "".join(table_text(table) for table in paper.tables)


def table_text(table: Table) -> str:
    """Heading, how it is finetuned, whose numbers, the rows."""
    said = f"Numbers: {table.source}." + (f" {table.note}" if table.note else "")
    settings = any(row.setting for row in table.rows)
    ways = {linked(row) for row in table.rows if not row.cited}
    # of two, the second is that of one row whose layers are in another order
    shared = len(ways) == 1 or len(ways) == 2 and any(row.pretrain for row in table.rows)
    head = ["row", *(["setting"] if settings else []), "start", *table.columns.values(), "here"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    told: set[str] = set()
    for row in table.rows:
        own = None if settings or shared else row.finetune
        cells = [f"`{row.id}`", *([to_config(row.setting, row.finetune, told)] if settings else [])]
        start = to_config(row.label, row.pretrain or own, told)
        cells.append(f"{start} ({row.note})" if row.note else start)
        cells += [row.values.get(metric, "") for metric in table.columns]
        lines.append(f"| {' | '.join([*cells, status(row)])} |")
    body = "\n".join(lines)
    return f"\n### {table.title}\n\n{wrapped(protocol(table, shared=shared) + said)}\n{body}\n"


def protocol(table: Table, *, shared: bool) -> str:
    """The config or the tool, linked if all rows share it, and the names of the scores."""
    ways = dict.fromkeys(way for row in table.rows if (way := linked(row)))
    names = [metric for metric in table.columns if not metric.startswith(NOT_SCORED)]
    scores = ", ".join(f"`{metric}`" for metric in names)
    begin = f"{' and '.join(ways)} scored by" if ways and shared else "Scored by"
    return f"{begin} {scores}. " if scores else ""


def linked(row: Row) -> str:
    """What comes after the pretraining, as a link."""
    if row.finetune:
        name = row.finetune.config.removeprefix("configs/")
        return f"[`{name.removeprefix('finetune/')}`](../{row.finetune.config})"
    if row.tool:
        words = row.tool[0] if row.tool[1].startswith("-") else f"{row.tool[0]} {row.tool[1]}"
        return f"`{words}`"
    return ""


def to_config(text: str, recipe: Recipe | None, told: set[str]) -> str:
    """The text as a link to the recipe's file, the first time that a table says it."""
    link = f"[{text}](../{recipe.config})" if recipe else text
    if link in told:
        return text
    told.add(link)
    return link


def status(row: Row) -> str:
    """What we did of it."""
    if row.cited:
        return f"cited: {row.cited}"
    return row.ours or "not run"


def wrapped(text: str) -> str:
    """A paragraph in lines; links stay whole."""
    return "\n".join(_lines(text)) + "\n"


def _lines(text: str) -> Iterator[str]:
    options = {"break_long_words": False, "break_on_hyphens": False}
    yield from textwrap.wrap(" ".join(text.split()), WIDTH, **options)  # type: ignore[arg-type]  # a dict of bool is not told apart from other arguments
