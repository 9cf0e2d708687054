"""The exit codes that every tool shares."""

import subprocess
import sys

import pytest

from d2_unsupdet.cli import Parser, run_tool
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


def test_a_wrong_option_is_one_sentence():
    parser = Parser()
    parser.add_argument("--scale", type=float)
    with pytest.raises(UserError, match="--scale.*'abc'; --help lists the options."):
        parser.parse_args(["--scale", "abc"])
    with pytest.raises(UserError, match="--scael"):
        parser.parse_args(["--scael"])


def test_a_reader_that_leaves_is_no_error():
    code = "from d2_unsupdet.cli import run_tool; run_tool(lambda: print('line\\n' * 100_000))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141
