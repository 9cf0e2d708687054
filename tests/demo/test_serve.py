"""The command line: what the docs say is understood, and what is amiss is a sentence."""

import re
import shlex
import socket
import subprocess
import sys

import pytest

from d2_unsupdet.errors import UserError
from tests.demo.conftest import ROOT

import serve  # isort: skip


def test_commands_of_the_docs_are_understood():
    text = (ROOT / "docs/demo.md").read_text()
    lines = re.findall(r"^python demo/serve\.py (.*)$", text, flags=re.MULTILINE)
    for line in lines:
        serve.parse(shlex.split(line, comments=True))
    assert len(lines) == 7
    args = serve.parse(["run"])
    for name in ("limit", "megabytes"):
        assert f"--{name}" in text and f"{getattr(args, name):g}" in text
    assert args.port == 8009 and "8009:" in text
    assert not any("host" in name for name in vars(args))  # nobody can open it to others


def test_a_backbone_without_images_has_nothing_to_show(run_of):
    with pytest.raises(UserError, match="neighbours alone: add --images"):
        serve.build(serve.parse([str(run_of("moco")), "--port", "0"]))


def test_a_port_that_is_taken(run_of):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(UserError, match=f"Port {port} cannot be taken .*--port"):
            serve.build(serve.parse([str(run_of("rcnn")), "--port", port]))


@pytest.mark.parametrize(
    "words", [["--megabytes", "0"], ["--megapixels", "nan"], ["--port", "99999"]]
)
def test_values_that_are_none(words):
    with pytest.raises(UserError, match=words[0]):
        serve.parse(["run", *words])


def test_fewer_images_are_evenly_spread(run_of, photos, capsys):
    looker = serve.open_model(serve.parse([str(run_of("moco"))]))
    gallery = serve.open_gallery(looker, str(photos), 2)
    assert [path.name for path in gallery.paths] == ["photo_0.png", "photo_2.png"]
    assert "2 images to compare with of 5, see --limit" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_says_a_sentence_and_no_traceback(tmp_path):
    command = [sys.executable, "demo/serve.py", str(tmp_path / "nothing")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr.startswith("error: There is no run or file")
    assert "Traceback" not in done.stderr
