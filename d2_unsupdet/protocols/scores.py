"""What a row reached beside what was printed: read from its runs, shown, and left as files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from d2_unsupdet.analysis.runs import flatten
from d2_unsupdet.checkpoint.files import write_json
from d2_unsupdet.errors import UserError
from d2_unsupdet.protocols.rows import Row
from d2_unsupdet.protocols.stages import Stage, other_seeds


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One metric of a row.

    Args:
        metric: such as "bbox/AP".
        printed: as in the paper, "" where we know no number.
        ours: one value a seed.
    """

    metric: str
    printed: str
    ours: tuple[float, ...]

    @property
    def text(self) -> str:
        """Mean, and the standard deviation of several seeds."""
        spread = f" ± {stdev(self.ours):.2f} ({len(self.ours)} seeds)" if len(self.ours) > 1 else ""
        return f"{mean(self.ours):.2f}{spread}"

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        printed = self.printed.split("±")[0]
        return mean(self.ours) - float(printed) if printed else None


def leave_reference(row: Row, folder: Path) -> None:
    """`paper.json` of a run: the numbers that its report shows beside its own."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "paper.json", reference(row))


def reference(row: Row) -> dict[str, Any]:
    """Where the numbers stand, and the numbers."""
    return {"paper": row.paper, "table": row.table, "row": row.name, "values": row.numbers}


def compare(row: Row, stages: Sequence[Stage]) -> list[Compared]:
    """The row's metrics over the last stages: all finetunings, else the one that scores."""
    last = [stage for stage in stages if stage.kind == stages[-1].kind]
    found = [read_scores(stage) for stage in last]
    compared = []
    for metric in row.columns:
        missing = [stage for stage, scores in zip(last, found, strict=True) if metric not in scores]
        if missing:
            raise UserError(f"'{missing[0].result}' holds no {metric}, which '{row.id}' is about.")
        ours = tuple(scores[metric] for scores in found)
        compared.append(Compared(metric=metric, printed=row.values.get(metric, ""), ours=ours))
    return compared


def read_scores(stage: Stage) -> dict[str, float]:
    """Flat names -> values of a run's summary, a probe's file or boxes that were scored."""
    content = json.loads(stage.result.read_text())
    if stage.kind != "score":
        nested: Mapping[str, Any] = content["result"]
    elif stage.result.name == "boxes.json":
        (scores,) = content["results"].values()
        nested = {"bbox_agnostic": scores}
    else:
        (checkpoint,) = content["checkpoints"].values()
        nested = {content["probe"]: checkpoint["results"]}
    scores = flatten(dict(nested))
    return {name: float(value) for name, value in scores.items() if isinstance(value, int | float)}


def shown(row: Row, compared: Sequence[Compared], scale: float) -> str:
    """A small table for the terminal; a trial has no difference to anything."""
    lines = [f"{row.id}: {row.paper}, {row.table}; {row.name}"]
    if scale != 1:
        lines.append(f"  a trial of {scale:g} of the length, not to be compared")
    lines.append(f"  {'':24s}{row.printed_by:>14s}  yours")
    for one in compared:
        change = "" if one.difference is None or scale != 1 else f"   {one.difference:+.2f}"
        lines.append(f"  {one.metric:24s}{one.printed or 'not known':>14s}  {one.text}{change}")
    return "\n".join(lines)


def leave_result(
    row: Row, compared: Sequence[Compared], stages: Sequence[Stage], folder: Path, scale: float
) -> Path:
    """`result.json` of the row: both numbers, and the commands that made ours.

    Seeds that the same command was given earlier count too.
    """
    stages = [*stages, *other_seeds(stages)]
    by_seed = {stage.seed: read_scores(stage) for stage in stages if stage.seed is not None}
    values = {}
    for one in compared:
        seeds = {str(seed): scores[one.metric] for seed, scores in sorted(by_seed.items())}
        ours = mean(seeds.values() or one.ours)
        values[one.metric] = {"paper": one.printed or None, "ours": ours, "seeds": seeds}
    path = folder / row.id / "result.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        path,
        {
            "row": row.id,
            "paper": row.paper,
            "table": row.table,
            "label": row.label,
            "scale": scale,
            "values": values,
            "commands": [stage.command for stage in stages],
        },
    )
    return path
