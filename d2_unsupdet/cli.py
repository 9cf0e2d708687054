"""What every command-line tool shares: a UserError becomes one line and exit code 2."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from d2_unsupdet.errors import UserError

USER_ERROR = 2  # argparse uses the same code


def run_tool(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and exit: 0 (or what it returns), or 2 with `error: <sentence>` on stderr.

    Example:
        >>> if __name__ == "__main__":
        ...     run_tool(main)
    """
    try:
        code = main() or 0
        sys.stdout.flush()
        sys.exit(code)
    except UserError as error:
        if os.environ.get("D2_UNSUPDET_DEBUG"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as shells expect
    except BrokenPipeError:  # `... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(141)  # 128 + SIGPIPE


class Parser(argparse.ArgumentParser):
    """Mistakes on the command line are one sentence, as all others."""

    def error(self, message: str) -> NoReturn:
        """Instead of the usage and exit."""
        raise UserError(f"{message}; --help lists the options.")


def positive(text: str) -> int:
    """A whole number of at least 1, as argparse's `type`."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value
