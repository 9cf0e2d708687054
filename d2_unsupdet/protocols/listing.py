"""Rows in the terminal: which there are, and what one would do."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from d2_unsupdet.protocols.options import Options, first_file
from d2_unsupdet.protocols.rows import Row
from d2_unsupdet.protocols.run import begun, finished
from d2_unsupdet.protocols.stages import Stage, plan


def listed(rows: Sequence[Row], output: Path) -> str:
    """Rows by table, in columns. The config files stay closed: it should be quick."""
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
    found = sorted(output.glob(f"**/{row.id}/result.json"))
    if found:
        return "finished" if found[0].parents[1] == output else found[0].parents[1].name
    return "begun" if list(output.glob(f"**/{row.id}")) else "nothing yet"


def state(stages: Sequence[Stage]) -> str:
    """How far a row is."""
    done = sum(finished(stage) for stage in stages)
    if done == len(stages):
        return "finished"
    started = sum(begun(stage) for stage in stages)
    return f"{done} of {len(stages)} stages are done" if done or started else "nothing is done yet"


def described(row: Row, options: Options) -> str:
    """What the row is, how it is scored, what it needs and its commands, as a script."""
    stages = plan(row, options)
    last = stages[-1]
    where = {
        "finetune": "evaluation at the end of the finetuning",
        "pretrain": "evaluation at the end of the pretraining (nothing is finetuned)",
        "score": f"{last.words[0]}",
    }[last.kind]
    numbers = ", ".join(f"{metric} {row.values.get(metric, 'not known')}" for metric in row.columns)
    lines = [
        f"# {row.id}: {row.paper}, {row.table}; {row.name}",
        f"# {row.printed_by}: {numbers}",
        f"# scored by: {where}, {last.result}",
        f"# here: {state(stages)}",
    ]
    file, what = first_file(row, options)
    if file:
        missing = "" if Path(file).is_file() else " (not there yet)"
        lines.append(f"# needs {file}: {what}{missing}")
    return "\n".join([*lines, *(stage.command for stage in stages)])
