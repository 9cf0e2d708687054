"""One linear SVM a class, by OpenSelfSup's VOC07 protocol, which follows Goyal et al. (1905.01235).

In training an image with nothing but difficult objects of a class counts as one without it, in
testing it does not count: that is how the protocol's code reads its label -1.
"""

import logging
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from d2_unsupdet.availability import is_installed
from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation.probes.features import normalised

log = logging.getLogger(__name__)

COSTS = (1.0, 10.0, 100.0)
FOLDS = 3


def require_sklearn() -> None:
    """Before any features are computed: say what to install."""
    if not is_installed("sklearn"):
        raise UserError("The SVM probe needs a package that is missing: pip install scikit-learn.")


def svm_scores(
    train: Tensor,
    targets: Tensor,
    test: Tensor,
    *,
    costs: Sequence[float] = COSTS,
    seed: int = 0,
    progress: bool = False,
) -> tuple[Tensor, list[float | None]]:
    """Decision values (n, classes), and the cost that cross-validation chose for each class.

    A class that fewer images show (or lack) than there are folds takes the first cost; one that no
    image or every image shows is not trained: its values are 0, its cost None.

    Args:
        train: (m, dim) features; normalised here.
        targets: (m, classes) of 1, 0, -1.
        test: (n, dim) features; normalised here.
        costs: what cross-validation chooses from.
        seed: of the solver.
        progress: whether to show a bar.
    """
    require_sklearn()
    from sklearn.model_selection import cross_val_score

    known, unknown = (normalised(x).double().numpy() for x in (train, test))
    scores = np.zeros((len(unknown), targets.shape[1]))
    chosen: list[float | None] = []
    with warnings.catch_warnings():
        # 2,000 passes are the protocol's, converged or not.
        warnings.filterwarnings("ignore", "Liblinear failed to converge")
        for column in tqdm(range(targets.shape[1]), desc="SVM classes", disable=not progress):
            labels = np.where(targets[:, column].numpy() == 1, 1, -1)
            fewest = min((labels == 1).sum(), (labels == -1).sum())
            if not fewest:
                chosen.append(None)
                continue
            best = costs[0]
            if len(costs) > 1 and fewest >= FOLDS:
                means = [
                    cross_val_score(
                        _svm(cost, seed), known, labels, cv=FOLDS, scoring="average_precision"
                    ).mean()
                    for cost in costs
                ]
                best = costs[int(np.argmax(means))]
            chosen.append(best)
            scores[:, column] = _svm(best, seed).fit(known, labels).decision_function(unknown)
    if None in chosen:
        log.warning(
            "%d of %d classes have no SVM: all images show them, or none",
            chosen.count(None),
            len(chosen),
        )
    return torch.from_numpy(scores), chosen


def _svm(cost: float, seed: int) -> "LinearSVC":  # type: ignore[name-defined]  # noqa: F821
    from sklearn.svm import LinearSVC

    return LinearSVC(
        C=cost,
        class_weight={1: 2, -1: 1},
        penalty="l2",
        loss="squared_hinge",
        dual=True,
        tol=1e-4,
        max_iter=2000,
        random_state=seed,
    )
