"""What a run folder holds, read without trusting it: finished, running, cut short or hostile.

`metrics.json` (a JSON object a line, with `iteration`), `config.yaml`, `environment.json`,
`command.txt`, `summary.json`, `paper.json` and `pictures/` may each be missing or damaged; what
could not be read becomes a sentence in `Run.notes`, never an exception.
"""

import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from d2_unsupdet.analysis.run_files import RunFile, read_files
from d2_unsupdet.analysis.run_pictures import Picture, read_pictures
from d2_unsupdet.analysis.safe_files import (
    Unreadable,
    is_number,
    load_json,
    parse_json,
    parse_yaml,
    read_text,
    whole_number,
)
from d2_unsupdet.analysis.score_names import FewNames, headline, is_score
from d2_unsupdet.checkpoint.stopped import STOPPED

_QUIET = 900  # seconds without a line after which a run that has not ended counts as stopped
_PATIENCE = 30  # below so many seconds nothing is said of a run that writes no line
_LOG = 256_000_000  # bytes of metrics.json; half a million lines of a detector have as many


@dataclass
class Run:
    """One run folder.

    Args:
        curves: scalar name -> [(iteration, value), ...], ascending, finite values only.
        scores: final value of each evaluation score, such as "bbox/AP50"; per-class ones too.
        summary: what the run says about itself: kind, method, data, seconds, result,
            init_checkpoint, init_coverage; other keys are shown as they are.
        paper: what a paper prints for it: `paper`, `table`, `row` and `values` by score.
        files: config, exports and checkpoints with their hashes.
        stopped: what ended it early, in its own words: `reason` and `iteration`.
        logged: when it last wrote a line of metrics, in seconds since 1970.
        notes: one sentence for everything that is missing or could not be read.
    """

    name: str
    path: Path
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    config: str = ""
    command: str = ""
    paper: dict[str, Any] = field(default_factory=dict)
    stopped: dict[str, Any] = field(default_factory=dict)
    files: list[RunFile] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    logged: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """What the run calls itself ("pretrain", "finetune"); one that has not ended is silent, and
        its model tells, or at last its scores."""
        said = self.summary.get("kind")
        if isinstance(said, str) and said:
            return said
        model = str(config_value(self, "model._target_"))
        if model.startswith("d2_unsupdet.pretext."):
            return "pretrain"
        if model.startswith(("d2_unsupdet.detectors.", "detectron2.modeling.")):
            return "finetune"
        return "finetune" if headline(self.scores) else "run"

    @property
    def last_iteration(self) -> int | None:
        """The last iteration that logged anything."""
        ends = [points[-1][0] for points in self.curves.values() if points]
        return max(ends) if ends else None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The config as a nested dict, parsed once; empty when there is none that can be read."""
        return _parsed(self.config)

    @property
    def length(self) -> int | None:
        """How many iterations it is to have."""
        for value in (self.summary.get("iterations"), config_value(self, "train.max_iter")):
            if isinstance(value, int) and value > 0:
                return value
        return None

    @property
    def state(self) -> str:
        """ "finished", "running", "silent" (longer without a line than it took for one before, in
        an evaluation or killed), "stopped" or "empty"."""
        if self.summary:
            return "finished"
        if self.stopped:
            return "stopped"
        if self.logged is None:
            return "empty"
        silent, interval = time.time() - self.logged, self.interval or 0.0
        if silent > max(_QUIET, 20 * interval):
            return "stopped"
        return "silent" if interval and silent > max(_PATIENCE, 5 * interval) else "running"

    @property
    def interval(self) -> float | None:
        """Seconds that it takes for a line of metrics; None if it does not tell."""
        points = self.curves.get("time", [])
        if not points:
            return None
        before = points[-2][0] if len(points) > 1 else -1
        return points[-1][1] * (points[-1][0] - before)

    @property
    def paper_values(self) -> dict[str, float]:
        """The paper's numbers by the name of our score."""
        values = self.paper.get("values")
        items = values.items() if isinstance(values, dict) else ()
        return {str(name): float(value) for name, value in items if is_number(value)}


def read_run(path: str | Path) -> Run:
    """Read a run folder; never raises for what is inside it."""
    path = Path(path)
    run = Run(name=path.resolve().name or str(path), path=path)
    if not path.is_dir():
        run.notes.append(f"There is no folder {path}.")
        return run
    _read_metrics(run)
    run.summary = _read_object(run, "summary.json")
    run.environment = _read_object(run, "environment.json")
    run.config = _read_text(run, "config.yaml")
    run.command = _read_text(run, "command.txt").strip()
    expected = ("environment.json", "config.yaml", "command.txt")
    absent = [name for name in expected if not (path / name).exists()]
    if absent:
        run.notes.append(f"It has no {', '.join(absent)}.")
    run.paper = _read_object(run, "paper.json")
    run.stopped = _read_object(run, STOPPED)
    run.files = read_files(path, run.summary)
    run.pictures, remarks = read_pictures(path)
    run.notes += remarks
    _read_results(run)
    return run


def is_run(path: Path) -> bool:
    """Whether a folder holds anything that only runs have; old ones have not all of it."""
    return any((path / name).exists() for name in ("config.yaml", "metrics.json", "summary.json"))


def read_runs(paths: list[str | Path]) -> list[Run]:
    """Read several run folders and tell equal names apart by their parent folders."""
    runs = [read_run(path) for path in paths]
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            run.name = f"{run.path.resolve().parent.name}/{run.name}"
    seen: dict[str, int] = {}
    for run in runs:
        seen[run.name] = seen.get(run.name, 0) + 1
        if seen[run.name] > 1:
            run.name += f" ({seen[run.name]})"
    return runs


def read_settings(path: Path) -> dict[str, Any]:
    """A config.yaml as a nested dict; empty when there is none that can be read."""
    try:
        return _parsed(read_text(path, path.parent))
    except (OSError, Unreadable):
        return {}


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = parse_yaml(text)
    except Unreadable:
        return {}
    return value if isinstance(value, dict) else {}


def _read_metrics(run: Run) -> None:
    path = run.path / "metrics.json"
    try:
        lines = read_text(path, run.path, limit=_LOG).splitlines()
        run.logged = min(max(path.stat().st_mtime, 0.0), time.time())  # an archive may hold any
    except FileNotFoundError:
        run.notes.append("It has no metrics.json yet, so there are no curves and no scores.")
        return
    except Unreadable as error:
        run.notes.append(f"metrics.json {error}, so there are no curves and no scores.")
        return
    damaged, unlike_number, few = 0, set(), FewNames()
    by_name: dict[str, dict[int, float]] = {}
    for line in filter(str.strip, lines):
        entry = _entry(line)
        iteration = whole_number(entry.pop("iteration", None))
        if iteration is None:
            damaged += 1
            continue
        for name, value in entry.items():
            if not few.take(name):
                continue
            if is_number(value):
                by_name.setdefault(name, {})[iteration] = float(value)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                unlike_number.add(name)
    run.curves = {name: sorted(points.items()) for name, points in by_name.items()}
    run.scores = {name: points[-1][1] for name, points in run.curves.items() if is_score(name)}
    if damaged:
        run.notes.append(f"{damaged} of {len(lines)} lines of metrics.json could not be read.")
    # A score is undefined where nothing is to be found: a class or a size without objects.
    unlike_number = {name for name in unlike_number if not is_score(name)}
    if unlike_number:
        names = ", ".join(name[:80] for name in sorted(unlike_number)[:5])
        run.notes.append(f"Values that are not finite, or beyond 1e100, were left out of: {names}.")
    run.notes += few.notes("metrics.json")
    if not run.curves:
        run.notes.append("metrics.json holds no values yet.")


def _entry(line: str) -> dict[str, Any]:
    try:
        entry = load_json(line)
    except Unreadable:
        return {}
    return entry if isinstance(entry, dict) else {}


def _read_results(run: Run) -> None:
    """Scores that the summary states win over the last ones logged."""
    result = run.summary.get("result")
    few = FewNames(run.scores)
    for name, value in flatten(result if isinstance(result, dict) else {}).items():
        if is_score(name) and is_number(value) and few.take(name):
            run.scores[name] = float(value)
    run.notes += few.notes("summary.json")


def flatten(nested: dict[str, Any], prefix: str = "", separator: str = "/") -> dict[str, Any]:
    """{"bbox": {"AP": 1.0}} -> {"bbox/AP": 1.0}."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}{separator}", separator)
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _read_object(run: Run, name: str) -> dict[str, Any]:
    text = _read_text(run, name)
    if not text:
        return {}
    try:
        content = parse_json(text)
    except Unreadable:
        content = None
    if not isinstance(content, dict):
        run.notes.append(f"{name} is not a JSON object and was left out.")
        return {}
    return content


def _read_text(run: Run, name: str) -> str:
    try:
        return read_text(run.path / name, run.path)
    except FileNotFoundError:
        return ""
    except Unreadable as error:
        run.notes.append(f"{name} {error} and was left out.")
        return ""


def config_value(run: Run, key: str) -> Any:
    """A dotted key of the run's config, None when there is none (or no readable config)."""
    value: Any = run.settings
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
