"""What the name of a logged value tells: "toy_val/bbox/AP-cat" is a score of one class.

Data sets name their classes as they like, "Cabinet/shelf" among them: whatever follows the metric's
dash belongs to the class, slashes and dashes included.
"""

import re
from collections.abc import Mapping

_TASK = re.compile(r"(bbox|segm|keypoints|sem_seg|panoptic_seg|box_proposals|knn|linear|svm)")
# "AP-", "IoU-", "legacy-mIoU-": of a class or a part. A data set in front may be "my-val".
_OF_ONE = re.compile(r"(?:[A-Z]\w*(?:@\d+)?|[mp][A-Z]\w*|legacy)-")


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
