"""Files that were made to break or to slow down their reader are refused, and quickly."""

import json
import os
import signal
from contextlib import contextmanager

import pytest
import yaml

from d2_unsupdet.analysis.safe_files import (
    Unreadable,
    file_size,
    is_number,
    parse_json,
    parse_yaml,
    read_bytes,
    read_text,
    whole_number,
)


@contextmanager
def within(seconds):
    """Fails where a reader blocks, instead of blocking the tests."""

    def late(*_):
        raise AssertionError(f"still at it after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def bomb(row):
    """Eight lines, each ten times as large as the one before."""
    names = "abcdefgh"
    lines = [f"{b}: &{b} {row(a)}" for a, b in zip(names, names[1:], strict=False)]
    return "\n".join(["a: &a {x: 1}", *lines])


HOSTILE_YAML = {
    "bomb": bomb(lambda a: f"[{', '.join([f'*{a}'] * 10)}]"),
    "merged": bomb(lambda a: f"{{<<: [{', '.join([f'*{a}'] * 10)}]}}"),
    "itself": "a: &a {b: *a}",
    "deep": "[" * 200_000,
    "deep blocks": "- " * 200_000,
    "base 60": "a: " + "1:" * 400_000 + "1",
    "tag": "!!python/object/apply:os.getcwd []",
    "no bool": "!!bool x",
    "no int": "!!int ''",
    "no date": "!!timestamp x",
    "month 13": "a: 2020-13-13",
    "digits": "a: " + "9" * 5000,
    "list as a name": "? [a]\n: b",
    "two documents": "a: 1\n---\nb: 2",
    "control": "a: \0",
    "long names": f"{{{'k' * 100_000}: {{{', '.join(f'{i}: 0' for i in range(1000))}}}}}",
}


@pytest.mark.parametrize("name", HOSTILE_YAML)
def test_hostile_yaml_is_refused(name):
    with within(10), pytest.raises(Unreadable):
        parse_yaml(HOSTILE_YAML[name])


def test_plain_yaml_is_read_and_aliases_are_followed():
    text = "a: &a {lr: 0.1, on: true}\nb: {<<: *a, c: [*a, 1e-3, x]}\n1: {2020-01-02: .inf}\n"
    told = parse_yaml(text)
    assert told["b"] == {"lr": 0.1, "True": True, "c": [told["a"], "1e-3", "x"]}
    assert told["1"] == {"2020-01-02": float("inf")}  # names are text
    assert parse_yaml(yaml.safe_dump({"a": {"b": [1, None, -2.5]}})) == {
        "a": {"b": [1, None, -2.5]}
    }


LONG_NAMES = json.dumps({"k" * 100_000: dict.fromkeys(map(str, range(1000)))})  # joined: 100 MB
HOSTILE_JSON = [LONG_NAMES, "[" * 100_000, '{"a":' * 70 + "1" + "}" * 70, "{", "9" * 5000, ""]


@pytest.mark.parametrize(
    "text", HOSTILE_JSON, ids=["names", "deep", "70 levels", "cut", "digits", "empty"]
)
def test_hostile_json_is_refused(text):
    with within(10), pytest.raises(Unreadable):
        parse_json(text)


def test_json_becomes_what_can_be_shown():
    told = parse_json('{"a\\u0000": "\\ud800", "b": [NaN, 1e999, 1%s], "c": 1e300}' % ("0" * 400))
    assert told == {"a\ufffd": "?", "b": [None, None, None], "c": 1e300}


def test_only_regular_files_inside_the_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "secret").write_text("root")
    (folder / "own").write_text("own")
    (folder / "link").symlink_to(folder / "own")
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "broken").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe")
    (tmp_path / "same").symlink_to(folder)
    for own in (folder, tmp_path / "same"):  # the folder itself may be a link
        assert read_text(own / "own", own) == read_text(own / "link", own) == "own"
        assert file_size(own / "link", own) == 3
    for name in ("out", "loop", "broken", "pipe", ".", "../secret"):
        with within(5), pytest.raises(Unreadable):
            read_bytes(folder / name, folder)
        assert file_size(folder / name, folder) is None
    for name in ("x\0y", "\ud800", "x" * 5000, "nothing"):
        with pytest.raises((Unreadable, FileNotFoundError)):
            read_bytes(folder / name, folder)
        assert file_size(folder / name, folder) is None


def test_too_large_a_file_is_not_read(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", tmp_path, limit=5) == b"12345"
    with pytest.raises(Unreadable, match="more than"):
        read_bytes(tmp_path / "a", tmp_path, limit=4)


def test_what_is_a_number():
    assert all(map(is_number, (0, -1.5, 1e100)))
    bad = (True, None, "1", [1], float("nan"), float("inf"), 1e101, -1e308, 10**400)
    assert not any(map(is_number, bad))
    assert [whole_number(v) for v in (0, 7, 7.0)] == [0, 7, 7]
    assert [whole_number(v) for v in (-1, 1e99, 2**60, True, "3", None)] == [None] * 6
