"""A run without a checkpoint says why it has none."""

import json

import pytest

from d2_unsupdet.checkpoint.checkpointer import newest_weights
from d2_unsupdet.checkpoint.stopped import no_checkpoint, why_stopped
from d2_unsupdet.errors import UserError


def leave(folder, content):
    (folder / "stopped.json").write_text(content)


def test_the_reason_is_told(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        newest_weights(tmp_path)
    leave(tmp_path, json.dumps({"reason": "1 of 23 images is bad.", "iteration": 4}))
    with pytest.raises(UserError, match=r"before its first checkpoint: 1 of 23 images is bad\.$"):
        newest_weights(tmp_path)


@pytest.mark.parametrize(
    "content, said",
    [
        ("", ""),
        ("[]", ""),
        ("{}", ""),
        ("[" * 100_000, ""),
        ('{"reason": " "}', ""),
        ('{"reason": "out of\\nmemory"}', "out of memory."),
        ('{"reason": 7}', "7."),
        (json.dumps({"reason": "a" * 9000}), "a" * 500 + "."),
    ],
)
def test_what_a_folder_says_is_one_line(tmp_path, content, said):
    leave(tmp_path, content)
    assert why_stopped(tmp_path) == said
    assert ("was stopped" in no_checkpoint(tmp_path)) == bool(said)
