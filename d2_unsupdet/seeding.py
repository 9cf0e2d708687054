"""Randomness as a function of the position: what to draw follows from (seed, epoch, index, ...).

Nothing random is stored in a checkpoint, so a run resumes bit for bit with any worker count.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on nothing else (no process, no hash salt)."""
    digest = hashlib.blake2b("\x1f".join(map(repr, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """A NumPy generator of its own for this position."""
    return np.random.default_rng(derive_seed(*parts))


def seed_everything(*parts: int | str) -> None:
    """Seed Python, NumPy and torch (all devices) for this position."""
    import torch

    seed = derive_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def seeded(*parts: int | str) -> Iterator[None]:
    """Seed Python, NumPy and torch's CPU generator inside the block; restore all three after it."""
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = derive_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
