"""Whether two lists of detections are the same but for rounding.

Rounding may swap detections of equal scores and exchange the last ones of a list of fixed length,
so answers are matched by class, score and place, and not by their rank.
"""

from dataclasses import dataclass

import numpy as np

SCORE_TOLERANCE = 1e-4
BOX_TOLERANCE = 1e-3  # of the longer side of the picture


@dataclass(frozen=True)
class Found:
    """Detections of one picture: boxes (n, 4) xyxy in pixels, scores and labels (n,)."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def some(self, keep: np.ndarray) -> "Found":
        """Those that `keep` names."""
        return Found(self.boxes[keep], self.scores[keep], self.labels[keep])


@dataclass(frozen=True)
class Difference:
    """The largest difference of matched detections, and how many found no partner.

    Args:
        score: of a score.
        box: of a box, as a share of the picture's longer side.
        unmatched: detections of either list that the other does not have; not those whose score is
            within the tolerance of where a list ends.
        matched: detections that were compared.
        count: detections of the longer list.
    """

    score: float
    box: float
    unmatched: int
    matched: int
    count: int

    @property
    def fine(self) -> bool:
        return self.unmatched == 0 and self.matched >= 0.9 * self.count


def compare(ours: Found, theirs: Found, size: tuple[int, int]) -> Difference:
    """Match detections one to one, the best scores first."""
    side = max(size)
    ours, theirs = _not_empty(ours), _not_empty(theirs)
    free = np.ones(len(theirs.scores), dtype=bool)
    score, box, alone = 0.0, 0.0, []
    for i in np.argsort(-ours.scores, kind="stable"):
        scores = np.abs(theirs.scores - ours.scores[i])
        boxes = np.abs(theirs.boxes - ours.boxes[i]).max(axis=1, initial=0) / side
        fits = free & (theirs.labels == ours.labels[i])
        fits &= (scores <= SCORE_TOLERANCE) & (boxes <= BOX_TOLERANCE)
        if not fits.any():
            alone.append(float(ours.scores[i]))
            continue
        best = int(np.where(fits, boxes, np.inf).argmin())
        free[best] = False
        score, box = max(score, float(scores[best])), max(box, float(boxes[best]))
    alone += [float(s) for s in theirs.scores[free]]
    ends = [found.scores.min(initial=np.inf) for found in (ours, theirs)]
    lost = sum(s > max(ends) + SCORE_TOLERANCE for s in alone) if np.isfinite(ends).all() else None
    matched = int((~free).sum())
    count = max(len(ours.scores), len(theirs.scores))
    return Difference(score, box, len(alone) if lost is None else lost, matched, count)


def _not_empty(found: Found) -> Found:
    """Detectron2 leaves out boxes without an area, an exported graph does not."""
    wide = found.boxes[:, 2:] > found.boxes[:, :2]
    return found.some(np.all(wide, axis=1))
