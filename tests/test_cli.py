"""The exit codes that every tool shares."""

import pytest

from d2_unsupdet.cli import run_tool
from d2_unsupdet.errors import UserError


def ended(main):
    with pytest.raises(SystemExit) as info:
        run_tool(main)
    return info.value.code


def failing(error):
    def main():
        raise error

    return main


def test_codes(capsys):
    assert ended(lambda: None) == 0
    assert ended(lambda: 3) == 3
    assert ended(failing(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == ""


def test_a_user_error_is_one_line(capsys):
    assert ended(failing(UserError("No such thing 'x'."))) == 2
    assert capsys.readouterr().err == "error: No such thing 'x'.\n"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_tool(failing(ZeroDivisionError()))
