"""A row in the terminal: what running it would do, and how far it is."""

from collections.abc import Sequence
from pathlib import Path

from d2_unsupdet.data import catalog
from d2_unsupdet.errors import UserError
from d2_unsupdet.protocols.options import Options, first_file
from d2_unsupdet.protocols.rows import Row
from d2_unsupdet.protocols.run import begun, finished
from d2_unsupdet.protocols.stages import Stage, plan


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
    lines += [f"# missing: {what}" for what in missing_data(stages)]
    return "\n".join([*lines, *(stage.command for stage in stages)])


def missing_data(stages: Sequence[Stage]) -> list[str]:
    """What unfinished stages would read and is not on disk, each once."""
    found = {}
    for names in (names for stage in stages if not finished(stage) for names in stage.data):
        for name in catalog.split_names(names):
            try:
                catalog.check(name)
            except UserError as error:
                found[name] = str(error).splitlines()[0].partition(" (relative")[0]
    return list(found.values())
