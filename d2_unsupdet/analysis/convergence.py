"""Convergence: a score against training for several settings in one figure, seeds as a band.

The runs are read from their folders, finished or not. What surprises: a point needs all seeds of
its setting, because a mean over those that happen to be far enough would jump where one ends.
"""

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from d2_unsupdet.analysis.plots import COLOURS, axes_grid, styled
from d2_unsupdet.analysis.runs import Run, config_value, read_run
from d2_unsupdet.analysis.score_names import is_score
from d2_unsupdet.analysis.scores import score_title
from d2_unsupdet.errors import UserError, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Axis = Literal["iterations", "epochs", "images"]


@dataclass(frozen=True)
class Convergence:
    """A score of the runs of one setting.

    Args:
        runs: folders, one a seed.
        x: (points,) how far training was.
        values: (runs, points) of the score.
        reached: for each run the first x at which the score passes the asked value, between two
            evaluations by a straight line; nan where it never does. None when nothing was asked.
    """

    runs: list[str]
    x: np.ndarray
    values: np.ndarray
    reached: np.ndarray | None = None

    def to_json(self) -> dict[str, Any]:
        """The numbers of the figure."""
        last = self.values[:, -1]
        told: dict[str, Any] = {
            "runs": self.runs,
            "x": self.x.tolist(),
            "mean": [round(float(v), 4) for v in self.values.mean(0)],
            "values": np.round(self.values, 4).tolist(),
            "last": round(float(last.mean()), 4),
            "last_std": round(float(last.std(ddof=1)), 4) if len(last) > 1 else None,
        }
        if self.reached is not None:
            found = [None if np.isnan(v) else round(float(v), 2) for v in self.reached]
            told["reached"] = found
            complete = None not in found
            told["reached_mean"] = round(float(self.reached.mean()), 2) if complete else None
        return told


def group_runs(named: Sequence[str]) -> dict[str, list[Path]]:
    """`LABEL=FOLDER` or `FOLDER`, either with shell wildcards; the same label makes one setting."""
    groups: dict[str, list[Path]] = {}
    for text in named:
        label, equals, pattern = text.partition("=")
        pattern = pattern if equals else text
        folders = [Path(p) for p in sorted(glob.glob(pattern)) if Path(p).is_dir()]
        if not folders:
            raise UserError(f"There is no run folder '{pattern}'.")
        for folder in folders:
            own = groups.setdefault(label if equals else folder.resolve().name, [])
            if folder.resolve() in [other.resolve() for other in own]:
                raise UserError(f"The run '{folder}' is given twice; a seed counts once.")
            own.append(folder)
    return groups


def convergence(
    groups: Mapping[str, Sequence[Path]],
    *,
    score: str = "bbox/AP",
    axis: Axis = "iterations",
    reach: float | None = None,
) -> dict[str, Convergence]:
    """The curves of each setting.

    Args:
        groups: label -> folders of its runs, see `group_runs`.
        score: as the runs log it.
        axis: what training is counted in; epochs and images need the runs' data set and batch.
        reach: value of the score whose first time is asked for.
    """
    results = {}
    for label, folders in groups.items():
        runs = [read_run(folder) for folder in folders]
        curves = [_curve(run, score, axis) for run in runs]
        x, values = common_points(curves)
        if not len(x):
            raise UserError(
                f"The runs of '{label}' were never scored at the same time: give each a label of "
                "its own, or the same train.eval_period."
            )
        reached = None
        if reach is not None:
            reached = np.array([_first(curve, reach) for curve in curves])
        results[label] = Convergence([str(f) for f in folders], x, values, reached)
    return results


def common_points(curves: Sequence[Mapping[Any, float]]) -> tuple[np.ndarray, np.ndarray]:
    """The points that all curves have, ascending, and (curves, points) values there."""
    common = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    values = np.array([[curve[point] for point in common] for curve in curves], dtype=float)
    return np.array(common, dtype=float), values


@styled
def draw(
    results: Mapping[str, Convergence], *, score: str, axis: Axis, reach: float | None = None
) -> "Figure":
    """One line a setting, its seeds' lowest and highest as a band, the last score in the legend."""
    figure, axes = axes_grid((7.2, 4.6), 1, 1)
    plot = axes[0, 0]
    for i, (label, result) in enumerate(results.items()):
        color, mean = COLOURS[i % len(COLOURS)], result.values.mean(0)
        seeds = len(result.values)
        if seeds > 1:
            low, high = result.values.min(0), result.values.max(0)
            plot.fill_between(result.x, low, high, color=color, alpha=0.15, lw=0)
        last = f"{mean[-1]:.1f}"
        if seeds > 1:
            last += f" ± {result.values[:, -1].std(ddof=1):.1f}, {seeds} runs"
        line = ("-", "--", "-.", ":")[i // len(COLOURS) % 4]
        name = f"{label}  ({last})"
        plot.plot(result.x, mean, line, marker="o", color=color, ms=3.5, lw=1.8, label=name)
    if reach is not None:
        plot.axhline(reach, color="#5a6577", lw=1, ls=(0, (2, 3)))
    plot.set_xlabel(axis)
    plot.set_ylabel(score_title(score))
    plot.set_xlim(left=0)
    if plot.get_ylim()[0] < 0.5 * plot.get_ylim()[1]:
        plot.set_ylim(bottom=0)  # an axis from 0 does not exaggerate
    plot.grid(color="#dfe3ea", lw=0.7)
    plot.set_axisbelow(True)
    plot.legend(loc="best")
    return figure


def _curve(run: Run, score: str, axis: Axis) -> dict[float, float]:
    points = run.curves.get(score)
    if not points:
        known = [name for name in run.curves if is_score(name) and "-" not in name]
        hint = nearest(score, known) or (f" It has {', '.join(known)}." if known else "")
        raise UserError(f"The run '{run.path}' has no score '{score}' yet.{hint}")
    factor = _factor(run, axis)
    return {round((iteration + 1) * factor, 6): value for iteration, value in points}


def _factor(run: Run, axis: Axis) -> float:
    """Iterations to the unit of the axis."""
    if axis == "iterations":
        return 1.0
    batch = config_value(run, "dataloader.train.total_batch_size")
    if not isinstance(batch, int):
        raise UserError(
            f"The run '{run.path}' has no readable config.yaml with its batch: draw iterations."
        )
    if axis == "images":
        return float(batch)
    images = run.summary.get("images")
    if not isinstance(images, int) or images < 1:
        raise UserError(
            f"The run '{run.path}' has not told its number of images, which it does at its end in "
            "summary.json: draw iterations or images."
        )
    return batch / images


def _first(curve: Mapping[float, float], value: float) -> float:
    """Where the curve first passes the value."""
    before: tuple[float, float] | None = None
    for x, y in sorted(curve.items()):
        if y >= value:
            if before is None:
                return x
            return before[0] + (x - before[0]) * (value - before[1]) / (y - before[1])
        before = x, y
    return float("nan")
