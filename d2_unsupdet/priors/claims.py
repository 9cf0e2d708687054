"""Claims on files: an exclusive `flock` that the kernel gives back when its owner dies, however.

Nothing has to be cleaned up after a kill, and no claim can be stale. On a network file system the
lock has to reach the other machines: NFS v4 does, Lustre needs the mount option `flock`.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from d2_unsupdet.errors import UserError

_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Try to own `path` inside the block; gives False at once if somebody else does.

    A folder that is gone means that the work is finished: False as well.
    """
    try:
        import fcntl  # not on Windows, where stores can still be read
    except ImportError as error:
        raise UserError("Boxes are extracted on Linux and macOS, and read anywhere.") from error
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _lock(fcntl, descriptor, path)
    finally:
        os.close(descriptor)  # and with it the claim


def _lock(fcntl: object, descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[attr-defined]  # POSIX
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        raise UserError(
            f"The file system of {path.parent} has no file locks, which keep two processes from "
            "the same work: extract on a local disk and copy the store."
        ) from error
    return True
