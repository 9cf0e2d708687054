"""What scores may be compared: those of one test set, one kind of score and one metric.

A difference between AP on one data set and AP on another, or between VOC's and COCO's, says
nothing; so the report has a table, a figure and a curve for each.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from d2_unsupdet.analysis.page_names import short_names
from d2_unsupdet.analysis.runs import Run, config_value
from d2_unsupdet.analysis.score_names import headline, split_score
from d2_unsupdet.analysis.scores import digits_of, score_columns
from d2_unsupdet.analysis.settings import Setting

_PROBES = ("knn", "linear", "svm")
_MAPS = ("sem_seg", "panoptic_seg")


@dataclass(frozen=True)
class ScoredOn:
    """How a run was scored.

    Args:
        test: name of the test set, "" where the run does not tell.
        kind: "boxes", "boxes without classes", "label maps" or "features".
        metric: "VOC" where `bbox` is VOC's own metric, else "".
        apart: whatever else makes scores differ: another evaluator, a part of the test set.
    """

    test: str = ""
    kind: str = "boxes"
    metric: str = ""
    apart: str = ""

    @property
    def label(self) -> str:
        """In a heading: "toy_val, boxes without classes"."""
        kind = self.kind if self.kind != "boxes" else ""
        metric = f"{self.metric}'s metric and COCO's" if self.metric else ""
        return ", ".join(filter(None, (self.test or "unknown test set", kind, metric, self.apart)))

    @property
    def place(self) -> str:
        """Beside the name of a score, which tells its kind: "toy_val"."""
        return ", ".join(filter(None, (self.test or "unknown test set", self.apart)))

    @property
    def is_known(self) -> bool:
        """Whether the label says anything."""
        return self != ScoredOn()


def scored_on(run: Run) -> ScoredOn:
    """As the run tells it."""
    tasks = dict.fromkeys(split_score(name)[0] for name in headline(run.scores))
    kind = _kind(list(tasks))
    names = config_value(run, "dataloader.test.dataset.names") or run.summary.get("test")
    if kind == "features":
        names = config_value(run, "train.knn_probe.test") or names
    is_voc = any(task.split("/")[-1] == "bbox_coco" for task in tasks)
    return ScoredOn(_text(names), kind, "VOC" if is_voc else "", _apart(run))


def by_test_set(settings: Iterable[Setting]) -> dict[ScoredOn, list[Setting]]:
    """The settings that have scores, those that may be compared together."""
    groups: dict[ScoredOn, list[Setting]] = {}
    for setting in settings:
        if setting.counted:
            groups.setdefault(scored_on(setting.counted[0]), []).append(setting)
    return groups


def in_short(groups: Iterable[ScoredOn]) -> dict[ScoredOn, ScoredOn]:
    """Each with a short name of its test set, for headings; whole where two would be alike."""
    groups = list(groups)
    names = short_names(how.test for how in groups)
    return {how: replace(how, test=names[how.test]) for how in groups}


def score_digits(settings: Sequence[Setting]) -> int:
    """Digits of all scores of one test set, wherever on the page they stand."""
    columns = score_columns(run for setting in settings for run in setting.runs)
    found = [digits_of([v for s in settings for v in s.scores(column)]) for column in columns]
    return max(found, default=1)


def mixed(settings: Iterable[Setting]) -> list[str]:
    """A sentence for each setting whose runs cannot be averaged."""
    sentences = []
    for setting in settings:
        labels = dict.fromkeys(scored_on(run).label for run in setting.counted)
        if len(labels) > 1:
            sentences.append(
                f"The runs of {setting.name} were scored on {' and '.join(labels)}: their mean "
                "says nothing; give them labels of their own."
            )
    return sentences


def _kind(tasks: Sequence[str]) -> str:
    rest = [task for task in tasks if task.split("/")[0] not in _PROBES]
    if tasks and not rest:
        return "features"
    if rest and rest[0].endswith("_agnostic"):
        return "boxes without classes"
    return "label maps" if rest and rest[0].split("/")[-1] in _MAPS else "boxes"


def _apart(run: Run) -> str:
    parts = []
    subset = config_value(run, "dataloader.test.dataset.subset")
    if subset is not None:
        parts.append(f"subset {subset}")
    target = config_value(run, "dataloader.evaluator._target_")
    if isinstance(target, str) and not target.endswith("build_evaluator"):
        parts.append(target.rsplit(".", 1)[-1])
    return ", ".join(parts)


def _text(names: Any) -> str:
    return ", ".join(map(str, names)) if isinstance(names, list) else str(names or "")
