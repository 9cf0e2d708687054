"""docs/reproduce.md, written from the rows: `python tools/reproduce.py --docs`."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from d2_unsupdet.protocols.rows import ROOT, TABLES, Paper, Recipe, Row, Table

PAGE = ROOT / "docs" / "reproduce.md"
WIDTH = 110
NOT_SCORED = ("cost/", "few_shot/")  # columns of rows that are cited alone


def page(papers: Sequence[Paper]) -> str:
    """The whole page."""
    intro = (TABLES / "intro.md").read_text(encoding="utf-8")
    headings = [line.lstrip("# ") for line in intro.splitlines() if line.startswith("#")]
    for paper in papers:
        headings += [paper.name, *(table.title for table in paper.tables)]
    found = iter(anchors(headings)[len(headings) - sum(1 + len(p.tables) for p in papers) :])
    links = {paper.id: [next(found) for _ in range(1 + len(paper.tables))] for paper in papers}
    parts = [intro.replace("<!-- contents -->", contents(papers, links))]
    parts += [section(paper, links[paper.id][1:]) for paper in papers]
    return "\n".join(parts).rstrip() + "\n"


def contents(papers: Sequence[Paper], links: Mapping[str, Sequence[str]]) -> str:
    """Papers, how many rows each has, how many of them can be compared, and how many were run."""
    heads = ("paper", "tables", "rows", "cited only", "without a printed number", "run by us")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for paper in papers:
        rows = [row for table in paper.tables for row in table.rows]
        bare = sum(not row.values for row in rows)
        cited, ours = sum(bool(row.cited) for row in rows), sum(bool(row.ours) for row in rows)
        link = f"[{paper.name}](#{links[paper.id][0]})"
        lines.append(f"| {link} | {len(paper.tables)} | {len(rows)} | {cited} | {bare} | {ours} |")
    return "\n".join(lines)


def anchors(headings: Sequence[str]) -> list[str]:
    """As sites that show Markdown make them of headings: a second one of a name gets -1."""
    seen: dict[str, int] = {}
    found = []
    for heading in headings:
        kept = (c for c in heading.lower() if c.isalnum() or c in " -_")
        name = "".join(kept).replace(" ", "-")
        count = seen.get(name, 0)
        seen[name] = count + 1
        found.append(f"{name}-{count}" if count else name)
    return found


def section(paper: Paper, links: Sequence[str]) -> str:
    """A paper with its tables."""
    title = f"[*{paper.title}*]({paper.link})" if paper.link else f"*{paper.title}*"
    begin = f"## {paper.name}\n\n{wrapped(f'{title}. {paper.about}')}"
    if len(paper.tables) > 1:
        pairs = zip(paper.tables, links, strict=True)
        begin += "\n" + "".join(f"* [{table.title}](#{link})\n" for table, link in pairs)
    return begin + "".join(table_text(table) for table in paper.tables)


def table_text(table: Table) -> str:
    """Heading, how it is finetuned, whose numbers, the rows."""
    said = f"Numbers: {table.source}." + (f" {table.note}" if table.note else "")
    settings = any(row.setting for row in table.rows)
    ways = {linked(row) for row in table.rows if not row.cited}
    # of two, the second is that of one row whose layers are in another order
    shared = len(ways) == 1 or len(ways) == 2 and any(row.pretrain for row in table.rows)
    head = ["row", *(["setting"] if settings else []), "start", *table.columns.values(), "our run"]
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
    alone = any(row.pretrain and not linked(row) for row in table.rows)
    when = ", where the pretraining ends; nothing is finetuned" if alone else ""
    return f"{begin} {scores}{when}. " if scores else ""


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
    return row.ours or "none"


def wrapped(text: str) -> str:
    """A paragraph in lines; links stay whole."""
    return "\n".join(_lines(text)) + "\n"


def _lines(text: str) -> Iterator[str]:
    options = {"break_long_words": False, "break_on_hyphens": False}
    yield from textwrap.wrap(" ".join(text.split()), WIDTH, **options)  # type: ignore[arg-type]  # a dict of bool is not told apart from other arguments
