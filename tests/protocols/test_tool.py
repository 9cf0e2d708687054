"""tools/reproduce.py: what is typed."""

from pathlib import Path

import pytest

from d2_unsupdet.errors import UserError
from tests.scripts import load_script

FILE = Path(__file__).resolve().parents[2] / "tools/reproduce.py"


@pytest.fixture(scope="module")
def tool():
    return load_script(FILE)


def test_rows_and_overrides_are_told_apart(tool):
    args = tool.parse(["toy-*", "pretrain:a.b=1", "--scale", "0.1", "dupr-voc-dupr", "c=2"])
    assert args.rows == ["toy-*", "dupr-voc-dupr"] and args.opts == ["pretrain:a.b=1", "c=2"]
    ids = [row.id for row in tool.selected(["toy-backbone-moco", "toy-backbone-*"])]
    assert ids == ["toy-backbone-moco", "toy-backbone-scratch"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scale", "abc"], "--scale"),
        (["optimizer.lr=1"], "Which row"),
        (["toy-backbone-scratch", "toy-nothing"], "no row 'toy-nothing'"),
        (["toy-backbone-scratch", "pretrain:optimizer.lr=1", "--dry-run"], "no pretraining"),
    ],
)
def test_mistakes_are_a_sentence(tool, words, said):
    with pytest.raises(UserError, match=said):
        tool.main(words)


def test_dry_runs_of_several_rows(tool, capsys, tmp_path):
    tool.main(
        ["toy-backbone-scratch", "toy-detector-scratch", "--dry-run", "--output", str(tmp_path)]
    )
    text = capsys.readouterr().out
    assert text.count("# our run: bbox/AP ") == 2 and text.count("python train_net.py") == 2
    assert not any(tmp_path.iterdir())


def test_the_page_is_not_written_by_a_dry_run(tool, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "PAGE", tmp_path / "reproduce.md")
    tool.main(["--docs", "--dry-run"])
    assert not tool.PAGE.exists() and "would change" in capsys.readouterr().out
    tool.main(["--docs"])
    tool.main(["--docs", "--dry-run"])
    assert tool.PAGE.is_file() and "would stay" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        tool.parse(["--help"])
    assert "--docs" not in capsys.readouterr().out
