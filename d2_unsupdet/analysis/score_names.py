"""What the name of a logged value tells: "toy_val/bbox/AP-cat" is a score of one class.

Data sets name their classes as they like, "Cabinet/shelf" among them: whatever follows the metric's
dash belongs to the class, slashes and dashes included.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

_TASK = re.compile(r"(bbox|segm|keypoints|sem_seg|panoptic_seg|box_proposals|knn|linear|svm)")
# "AP-", "IoU-", "legacy-mIoU-": of a class or a part. A data set in front may be "my-val".
_OF_ONE = re.compile(r"(?:[A-Z]\w*(?:@\d+)?|[mp][A-Z]\w*|legacy)-")
# A detector logs about a hundred losses, a test set a dozen scores; LVIS has 1,203 classes, each
# with boxes and masks.
MOST = {"values": 500, "scores": 500, "scores of single classes": 5000}
_NEEDED = ("total_loss", "lr", "time", "eta_seconds")  # by the page itself
_REMEMBERED = 100_000  # names that were refused; to judge a name takes longer than to look it up


def is_score(name: str) -> bool:
    """Whether a logged scalar comes from an evaluation ("bbox/AP", "toy_val/bbox/AP")."""
    return any(_TASK.match(part) for part in name.split("/")[:-1])


def split_score(name: str) -> tuple[str, str]:
    """Task and metric: "toy_val/bbox/AP-a/b" -> ("toy_val/bbox", "AP-a/b")."""
    parts = name.split("/")
    tasks = [i for i, part in enumerate(parts[:-1]) if _TASK.match(part)]
    for i in range(tasks[0] + 1 if tasks else len(parts), len(parts)):
        if _OF_ONE.match(parts[i]):
            return "/".join(parts[:i]), "/".join(parts[i:])
    return "/".join(parts[:-1]), parts[-1]


def is_of_one_class(name: str) -> bool:
    """Whether a score is of a class, or of the things or stuff among them ("bbox/AP-cat")."""
    return "-" in split_score(name)[1]


def headline(scores: Mapping[str, float]) -> dict[str, float]:
    """The scores without those of single classes."""
    return {name: value for name, value in scores.items() if not is_of_one_class(name)}


class FewNames:
    """Takes the first names of each kind (`MOST`), since a page of all that a log can hold would
    never end; `refused` is the first name that found no place.

    >>> names = FewNames()
    >>> names.take("bbox/AP")
    True
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        self.refused: str | None = None
        self._taken: set[str] = set()
        self._refused: set[str] = set()
        self._counts: Counter[str] = Counter()
        for name in known:
            self.take(name)

    def take(self, name: str) -> bool:
        """Whether the name is one of the first; the same answer each time."""
        if name in self._taken:
            return True
        if name in self._refused:
            return False
        kind = "values"
        if is_score(name):
            kind = "scores of single classes" if is_of_one_class(name) else "scores"
        if self._counts[kind] < MOST[kind] or name in _NEEDED:
            self._counts[kind] += 1
            self._taken.add(name)
            return True
        if self.refused is None:
            self.refused = name
        if len(self._refused) < _REMEMBERED:
            self._refused.add(name)
        return False

    def notes(self, file: str) -> list[str]:
        """A sentence on what was left out of a file; none if that is nothing."""
        if self.refused is None:
            return []
        most = ", ".join(f"{count} {kind}" for kind, count in MOST.items())
        return [
            f"{file} holds more names than are read, of which the first of each kind are shown "
            f"({most}); '{self.refused[:80]}' is the first that is left out."
        ]
