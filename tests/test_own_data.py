"""docs/own_data.md does what it says: its commands are read from the page and run as they stand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/own_data.md"
WAYS = ("coco", "voc", "yolo")


def blocks() -> list[str]:
    return re.findall(r"```bash\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def script(way: str) -> str:
    """The page from top to bottom: its short lengths, and one of its kinds of labels."""
    lengths = [block for block in blocks() if block.startswith("UNLABELED=")]
    labels = [block for block in blocks() if re.search("^TRAIN=", block, flags=re.MULTILINE)]
    assert (len(lengths), len(labels)) == (2, len(WAYS))
    left_out = {lengths[0], *labels} - {labels[WAYS.index(way)]}
    return "set -eu\n" + "".join(block for block in blocks() if block not in left_out)


@pytest.fixture
def clone(tmp_path):
    """What the commands need, in a folder where output may be left."""
    for name in ("configs", "d2_unsupdet", "datasets", "tools", "train_net.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_the_page_names_every_kind_of_labels_and_both_lengths():
    for way in WAYS:
        text = script(way)
        for name in ("UNLABELED", "IMAGES", "TRAIN", "VAL"):
            assert len(re.findall(f"^{name}=", text, flags=re.MULTILINE)) == 1
        assert "PRETRAIN=4 " in text and "--eval-only" in text and "quickstart.py" in text


@pytest.mark.slow
@pytest.mark.timeout(3000)  # eight commands: a minute, many beside other programs
@pytest.mark.parametrize("way", WAYS)
def test_the_page_runs_as_written(way, clone):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    text = script(way)
    if way != "coco":  # once is enough, it repeats the page
        text = text.replace(next(b for b in blocks() if "quickstart.py" in b), "")
    else:
        text = text.replace("tools/quickstart.py", "tools/quickstart.py --steps 0.01")
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=clone,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(clone)},
        capture_output=True,
        text=True,
        timeout=2900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    own = clone / "output/own"
    task = {"bbox", "bbox_coco"} if way == "voc" else {"bbox"}
    for name in ("finetune", "scratch"):
        summary = json.loads((own / name / "summary.json").read_text())
        assert set(summary["result"]) == task and "AP-star" in str(summary["result"])
    assert "8: " in done.stderr + done.stdout  # classes, from the data
    report = (own / "report.html").read_text()
    assert "finetune" in report and "scratch" in report
    assert list((own / "finetune/predictions_vs_scratch").glob("*.png"))
    saved = json.loads((own / "finetune/evaluation/coco_instances_results.json").read_text())
    first = {"coco": 1, "yolo": 0, "voc": 0}[way]
    assert {d["category_id"] for d in saved} <= set(range(first, first + 8))
