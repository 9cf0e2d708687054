"""Which of an image's boxes are used: DETReg's policies (arXiv:2106.04550).

Its code names the second one "mc". What its code calls "random" takes the boxes of another image;
here, as in its paper, they are any boxes of this one. `RandomBoxes` is a source, not a policy.
"""

from collections.abc import Callable

import numpy as np

from d2_unsupdet.errors import UserError, nearest

Policy = Callable[[int, int, np.random.Generator], np.ndarray]


def top(found: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """The first `count`."""
    return np.arange(min(found, count))


def sampled(found: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Each with a chance that falls with its rank; about `count` where there are ten times so many.

    Rank i of R = 10 * count is kept with the chance -ln(i / (R + 1)) / 10: for 30 of 300 boxes
    0.57 at the first rank, 0.23 at the thirtieth, 29.7 boxes in the mean.
    """
    ranks = np.arange(1, min(found, 10 * count) + 1)
    chances = -np.log(ranks / (10 * count + 1)) / 10
    return np.flatnonzero(rng.random(len(ranks)) < chances)


def random(found: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Any `count`, each as likely as another, in the order of their ranks."""
    return np.sort(rng.permutation(found)[:count])


POLICIES: dict[str, Policy] = {"top": top, "sampled": sampled, "random": random}


def policy(name: str) -> Policy:
    """The policy of this name."""
    if name not in POLICIES:
        raise UserError(
            f"policy='{name}' is not known, use one of {', '.join(POLICIES)}."
            f"{nearest(name, POLICIES)}"
        )
    return POLICIES[name]
