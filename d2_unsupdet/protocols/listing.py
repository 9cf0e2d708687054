"""Rows in the terminal, quickly: no config is opened, and torch is not imported."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from d2_unsupdet.protocols.rows import Row


def listed(rows: Sequence[Row], output: Path) -> str:
    """Rows by table, in columns."""
    lines = [("row", "printed", f"in {output}", "start")]
    lines += [(row.id, printed(row), done_in(output, row), row.name) for row in rows]
    widths = [max(len(line[at]) for line in lines) for at in range(3)]
    head, *cells = ("  ".join(_padded(line, widths)) for line in lines)
    found, texts = [f"  {head}"], iter(cells)
    for (paper, table), group in groupby(rows, lambda row: (row.paper, row.table)):
        chosen = list(group)
        columns = ", ".join(chosen[0].columns)
        found += ["", f"{paper} | {table} | {columns}"]
        found += [f"  {next(texts)}" for _ in chosen]
    return "\n".join(found)


def _padded(line: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for at, text in enumerate(line):
        yield text.ljust(widths[at]) if at < len(widths) else text


def printed(row: Row) -> str:
    """Its numbers in the order of the columns."""
    if not row.values:
        return "not known"
    return " / ".join(row.values.get(metric, "-") for metric in row.columns)


def done_in(output: Path, row: Row) -> str:
    """What the output folder says of a row."""
    if row.cited:
        return "only cited"
    trials = sorted(output.glob("scale-*"))
    for folder in (output, *trials):
        if (folder / row.id / "result.json").is_file():
            return "finished" if folder == output else folder.name
    begun = any((folder / row.id).is_dir() for folder in (output, *trials))
    return "begun" if begun else "nothing yet"
