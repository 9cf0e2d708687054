"""A row as commands: what is run, what is skipped, resumed and refused, and what is left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from d2_unsupdet.analysis.runs import flatten
from d2_unsupdet.errors import UserError
from d2_unsupdet.protocols import rows, select
from d2_unsupdet.protocols import run as run_module
from d2_unsupdet.protocols.listing import listed
from d2_unsupdet.protocols.options import Options, check_use
from d2_unsupdet.protocols.preview import described
from d2_unsupdet.protocols.rows import Recipe, Row
from d2_unsupdet.protocols.run import alone, begun, run_row
from d2_unsupdet.protocols.scores import shown
from d2_unsupdet.protocols.stages import plan

ROOT = Path(__file__).resolve().parents[2]
MOCO = "configs/quickstart/pretrain_moco.py"


def row_of(**changes) -> Row:
    (row,) = select("toy-backbone-moco")
    return replace(row, **changes)


class Runner:
    """Does what the commands would leave; fails at those whose number is in `fails`."""

    def __init__(self, *fails: int, score: float = 5.0):
        self.commands: list[list[str]] = []
        self.fails, self.score = set(fails), score

    def __call__(self, words) -> int:
        self.commands.append(list(words))
        if len(self.commands) in self.fails:
            return 1
        values = dict(word.split("=", 1) for word in words if "=" in word)
        if "train.output_dir" in values:
            self.score += 1
            result = {"bbox": {"AP": self.score, "AP50": 2 * self.score}}
            path = Path(values["train.output_dir"]) / "summary.json"
            path.write_text(json.dumps({"result": result}))
        return 0


def kinds(commands) -> list[str]:
    return ["--resume" * ("--resume" in words) or words[0] for words in commands]


def test_pretrain_finetune_compare(tmp_path):
    runner = Runner()
    row = row_of(seeds=(0, 1))
    compared = run_row(row, Options(output=tmp_path), runner=runner)
    pretrain, first, second = runner.commands
    export = (
        f"train.init_checkpoint={tmp_path}/pretrain/quickstart_pretrain_moco/export.safetensors"
    )
    assert MOCO in pretrain and not any("init_checkpoint" in word for word in pretrain)
    assert export in first and export in second
    assert "train.seed=0" in first and "train.seed=1" in second
    ap, ap50 = compared
    assert ap.ours == (7.0, 8.0) and ap.printed == "5.3" and ap.difference == pytest.approx(2.2)
    assert ap.text == "7.50 ± 0.71 (2 seeds)" and ap50.ours == (14.0, 16.0)
    text = shown(row, compared, 1)
    assert "5.3" in text and "7.50 ± 0.71" in text and "+2.20" in text
    result = json.loads((tmp_path / row.id / "result.json").read_text())
    assert result["values"]["bbox/AP"] == {
        "paper": "5.3",
        "ours": 7.5,
        "seeds": {"0": 7.0, "1": 8.0},
    }
    assert len(result["commands"]) == 3


def test_seeds_of_an_earlier_command_stay_in_the_result(tmp_path):
    def left():
        return json.loads((tmp_path / row.id / "result.json").read_text())["values"]["bbox/AP"]

    row = row_of()
    run_row(row, Options(output=tmp_path, seeds=(2, 10)), runner=Runner())
    run_row(row, Options(output=tmp_path, seeds=(3,)), runner=Runner())
    assert left() == {"paper": "5.3", "ours": 7.0, "seeds": {"2": 7.0, "3": 6.0, "10": 8.0}}
    shutil.rmtree(tmp_path / row.id / "s10")  # a run that is gone counts no more
    run_row(row, Options(output=tmp_path, seeds=(3,)), runner=Runner())
    assert left()["seeds"] == {"2": 7.0, "3": 6.0}
    (tmp_path / row.id / "s2/command.json").unlink()  # nor one that nobody knows
    run_row(row, Options(output=tmp_path, seeds=(3,)), runner=Runner())
    assert left()["seeds"] == {"3": 6.0}


def test_seeds_of_another_command_do_not(tmp_path):
    row = row_of()
    run_row(row, Options(output=tmp_path, seeds=(0,)), runner=Runner())
    faster = Options(output=tmp_path, seeds=(1,), overrides=("finetune:optimizer.lr=0.5",))
    run_row(row, faster, runner=Runner(score=50))
    result = json.loads((tmp_path / row.id / "result.json").read_text())
    assert result["values"]["bbox/AP"] == {"paper": "5.3", "ours": 51.0, "seeds": {"1": 51.0}}
    run_row(row, replace(faster, seeds=(2,), num_gpus=2), runner=Runner(score=60))
    result = json.loads((tmp_path / row.id / "result.json").read_text())
    assert result["values"]["bbox/AP"]["seeds"] == {"1": 51.0, "2": 61.0}
    assert [command.count("train.seed=1") for command in result["commands"]] == [0, 0, 1]


def test_the_run_tells_its_report_the_papers_numbers(tmp_path):
    row = row_of()
    run_row(row, Options(output=tmp_path), runner=Runner())
    told = json.loads((tmp_path / row.id / "s0/paper.json").read_text())
    assert told["values"] == {"bbox/AP": 5.3, "bbox/AP50": 11.0}
    assert (told["paper"], told["row"]) == ("Embedded images", "MoCo v2, 600 steps")
    assert not (tmp_path / "pretrain/quickstart_pretrain_moco/paper.json").exists()


def test_what_is_finished_is_skipped_and_what_was_begun_is_resumed(tmp_path):
    row, options = row_of(), Options(output=tmp_path)
    with pytest.raises(UserError, match="the same command goes on"):
        run_row(row, options, runner=Runner(2))
    again = Runner()
    run_row(row, options, runner=again)
    assert kinds(again.commands) == ["--resume"]
    assert "finetune" in again.commands[0][2]
    third = Runner()
    run_row(row, options, runner=third)
    assert third.commands == []


def test_a_stopped_pretraining_is_resumed_too(tmp_path):
    row, options = row_of(), Options(output=tmp_path)
    with pytest.raises(UserError):
        run_row(row, options, runner=Runner(1))
    assert begun(plan(row, options)[0])
    again = Runner()
    run_row(row, options, runner=again)
    assert kinds(again.commands) == ["--resume", "train_net.py"]


def test_rows_share_a_pretraining(tmp_path):
    options = Options(output=tmp_path)
    run_row(row_of(), options, runner=Runner())
    other = Runner()
    run_row(row_of(id="other"), options, runner=other)
    assert len(other.commands) == 1


def test_a_folder_of_another_command_is_never_taken_for_this_one(tmp_path):
    run_row(row_of(), Options(output=tmp_path), runner=Runner())
    changed = Options(output=tmp_path, overrides=("finetune:optimizer.lr=0.5",))
    with pytest.raises(UserError, match=r"made by another command \(optimizer.lr=0.5\)"):
        run_row(row_of(), changed, runner=Runner())
    # neither processes nor loading workers change what comes out
    same = ("dataloader.train.num_workers=7",)
    run_row(row_of(), Options(output=tmp_path, num_gpus=8, overrides=same), runner=Runner(1))


def test_two_processes_never_train_in_one_folder(tmp_path):
    options = Options(output=tmp_path)
    with (
        alone(plan(row_of(), options)[0].folder),
        pytest.raises(UserError, match="Another process works"),
    ):
        run_row(row_of(), options, runner=Runner())


def test_a_killed_command_leaves_its_folder_to_the_training_that_lives_on(tmp_path):
    folder, told = tmp_path / "run", tmp_path / "pid"
    training = f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    script = (
        "from pathlib import Path; from d2_unsupdet.protocols.run import alone, run_words\n"
        f"with alone(Path({str(folder)!r})): run_words(['-c', {training!r}])"
    )
    command = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    wait_until(lambda: told.exists() and told.read_text())
    command.kill()
    command.wait()
    try:
        with pytest.raises(UserError, match="Another process works"), alone(folder):
            pass
    finally:
        os.kill(int(told.read_text()), signal.SIGKILL)

    def free() -> bool:
        try:
            with alone(folder):
                return True
        except UserError:
            return False

    wait_until(free)


def wait_until(done) -> None:
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_trial_is_short_and_lies_apart(tmp_path):
    row = row_of()
    stages = plan(row, Options(output=tmp_path, scale=0.01))
    assert all("train.max_iter=6" in s.words or "train.max_iter=5" in s.words for s in stages)
    assert all(str(tmp_path / "scale-0.01") in str(stage.folder) for stage in stages)
    run_row(row, Options(output=tmp_path, scale=0.01), runner=Runner())
    assert not list(tmp_path.rglob("paper.json"))  # its report shows no number of a whole run
    runner = Runner()
    compared = run_row(row, Options(output=tmp_path), runner=runner)
    assert len(runner.commands) == 2
    trial, whole = shown(row, compared, 0.01), shown(row, compared, 1)
    assert "0.01 of the length" in trial and "our run  yours" in trial
    assert "+1.70" in whole and "+1.70" not in trial


def test_an_override_belongs_to_one_training_or_to_all():
    given = ("train.seed=4", "pretrain:optimizer.lr=0.1", "finetune:train.ema.enabled=true")
    pretrain, finetune = plan(row_of(), Options(overrides=given))
    assert "optimizer.lr=0.1" in pretrain.words and "optimizer.lr=0.1" not in finetune.words
    assert "train.ema.enabled=true" in finetune.words and "train.seed=4" in pretrain.words
    with pytest.raises(UserError, match="Did you mean"):
        plan(row_of(), Options(overrides=("finetune:train.max_itr=4",)))


def test_what_no_training_would_read_is_refused():
    (probe,), (cited) = select("dupr-svm-dupr"), "finetune:train.max_iter=3"
    with pytest.raises(UserError, match="has no finetuning that 'finetune:train.max_iter=3'"):
        check_use([probe], Options(overrides=(cited,)))
    check_use([probe], Options(overrides=("pretrain:train.max_iter=3", "train.seed=1")))
    check_use([probe, row_of()], Options(overrides=(cited,)))
    with pytest.raises(UserError, match="has no pretraining beside --pretrained"):
        check_use([row_of()], Options(pretrained="a.pth", overrides=("pretrain:train.seed=1",)))
    with pytest.raises(UserError, match="--seeds"):
        check_use([probe], Options(seeds=(1,)))
    (boxes,) = select("joindet-proposals-selective-search")
    with pytest.raises(UserError, match="--scale"):
        check_use([boxes], Options(scale=0.1))


def test_a_dry_run_says_where_the_score_comes_from_and_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("D2_UNSUPDET_WEIGHTS", str(tmp_path))
    options = Options(output=tmp_path / "out")
    (row,) = select("densesiam-segmentation-densesiam")
    head = [line for line in described(row, options).splitlines() if line.startswith("#")]
    assert head[0].endswith(
        "COCO-Stuff-27, segmentation without labels, ResNet-18, 10 epochs; DenseSiam"
    )
    assert head[1] == "# paper: sem_seg/mIoU 16.4, sem_seg/pACC not known"
    assert "at the end of the pretraining" in head[2] and head[2].endswith("/summary.json")
    assert head[3] == "# here: nothing is done yet"
    assert "supervised_r18.pth" in head[4] and "resnet18-f37072fd.pth (not there yet)" in head[4]
    (tmp_path / "supervised_r18.pth").touch()
    assert "not there" not in described(row, options)
    assert "# needs" not in described(row_of(), options)


def test_a_dry_run_names_the_data_that_is_missing_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (row,) = select("dupr-voc-dupr")
    text = described(row, Options(output=tmp_path / "out"))
    missing = [line for line in text.splitlines() if line.startswith("# missing")]
    names = ["imagenet_train", "voc_2007_trainval", "voc_2012_trainval", "voc_2007_test"]
    for line, name in zip(missing, names, strict=True):
        assert line.startswith(f"# missing: Data set '{name}' is not on disk: {tmp_path}")
        assert line.endswith("does not exist")
    assert "missing" not in described(row_of(), Options(output=tmp_path / "out"))


def test_a_list_has_columns_and_says_what_is_here(tmp_path):
    chosen = [*select("toy-backbone-*"), *select("deta-coco-swin")]
    run_row(chosen[1], Options(output=tmp_path), runner=Runner())
    head, *lines = listed(chosen, tmp_path).splitlines()
    at = [head.index(word) for word in ("printed", "in ", "start")]
    rows_of = [line for line in lines if line.startswith("  ")]
    assert all(line[place - 1] == " " != line[place] for line in rows_of for place in at)
    assert [line[at[1] : at[2]].strip() for line in rows_of] == [
        "nothing yet",
        "finished",
        "only cited",
    ]
    assert lines[1].startswith("Embedded images | The quickstart's Faster R-CNN")


def test_weights_are_asked_for_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("D2_UNSUPDET_WEIGHTS", str(tmp_path))
    (row,) = select("dupr-voc-supervised")
    runner = Runner()
    with pytest.raises(UserError, match="resnet50-0676ba61.pth.*supervised.pth"):
        run_row(row, Options(output=tmp_path), runner=runner)
    assert not runner.commands
    (tmp_path / "supervised.pth").touch()
    found = f"train.init_checkpoint={tmp_path}/supervised.pth"
    assert found in plan(row, Options())[0].words
    with pytest.raises(UserError, match="begins with random weights"):
        plan(row_of(), Options(weights="some.pth"))


def test_data_are_asked_for_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (row,) = select("dupr-voc-dupr")
    runner = Runner()
    with pytest.raises(UserError, match="imagenet"):
        run_row(row, Options(output=tmp_path / "out"), runner=runner)
    assert not runner.commands


def test_pretrained_weights_take_the_place_of_the_pretraining(tmp_path):
    file = tmp_path / "moco.pth"
    file.touch()
    (stage,) = plan(row_of(), Options(pretrained=str(file)))
    assert f"train.init_checkpoint={file}" in stage.words
    (scratch,) = select("toy-backbone-scratch")
    with pytest.raises(UserError, match="has no pretraining"):
        plan(scratch, Options(pretrained=str(file)))


def test_a_cited_row_says_why():
    (row,) = select("deta-coco-swin")
    with pytest.raises(UserError, match="only cite: Swin-L"):
        plan(row, Options())


def test_a_probe_scores_the_export(tmp_path):
    (row,) = select("dupr-svm-levels")
    stages = plan(row, Options(output=tmp_path))
    assert stages[-1].kind == "score" and stages[-1].data[0] == "voc_2007_trainval"
    export = stages[0].folder / "export.safetensors"
    assert f"row={export}" in stages[-1].words
    results = {stage: {"mAP": 10.0, "AP": {"cat": None}} for stage in ("conv1", "conv5")}
    stages[-1].folder.mkdir(parents=True)
    content = {"probe": "svm", "checkpoints": {"row": {"results": results}}}
    (stages[-1].folder / "svm.json").write_text(json.dumps(content))
    scores = run_module.compare(replace(row, columns=("svm/conv5/mAP",)), stages)
    assert scores[0].ours == (10.0,) and scores[0].printed == "83.7"


def test_boxes_alone_are_scored_too(tmp_path):
    (row,) = select("joindet-proposals-selective-search")
    (stage,) = plan(row, Options(output=tmp_path))
    stage.folder.mkdir(parents=True)
    scores = dict.fromkeys(("AP", "AP50", "AP75", "AR@1", "AR@10", "AR@100"), 1.0)
    (stage.folder / "boxes.json").write_text(json.dumps({"results": {"selective-search": scores}}))
    compared = run_module.compare(row, [stage])
    assert [one.printed for one in compared] == ["0.2", "", "", "0.2", "1.5", "10.9"]


def test_a_missing_score_is_said(tmp_path):
    row = row_of(columns=("bbox/AP", "segm/AP"))
    with pytest.raises(UserError, match="holds no segm/AP"):
        run_row(row, Options(output=tmp_path), runner=Runner())


def test_recipes_with_other_changes_have_folders_of_their_own():
    from d2_unsupdet.protocols.stages import pretraining_folder

    recipes = {row.pretrain for row in rows() if row.pretrain}
    by_content = {(r.config, r.overrides) for r in recipes}
    assert len({pretraining_folder(r) for r in recipes}) == len(by_content)
    assert pretraining_folder(Recipe(config="configs/pretrain/dupr/a.py")) == "dupr_a"


@pytest.mark.slow
def test_a_row_from_end_to_end(tmp_path, monkeypatch):
    """Real commands; the finetuning is killed once."""
    row = row_of()
    small = ("dataloader.train.num_workers=0", "train.pictures=0", "train.device=cpu")
    few = ("finetune:dataloader.test.dataset.names=toy_val:images=8",)
    images = ("pretrain:dataloader.train.dataset.names=toy_unlabeled:images=64",)
    options = Options(output=tmp_path, scale=0.01, overrides=(*small, *few, *images))

    def killed(words):
        if any("finetune" in word for word in words):
            words = [*words, "no.such.key=1"]
        return run_module.run_words(words)

    with pytest.raises(UserError, match="exit code 2"):
        run_row(row, options, runner=killed)
    compared = run_row(row, options)
    assert [one.metric for one in compared] == ["bbox/AP", "bbox/AP50"]
    run = tmp_path / "scale-0.01" / row.id / "s0"
    summary = flatten(json.loads((run / "summary.json").read_text())["result"])
    assert compared[0].ours == (summary["bbox/AP"],)
    assert (run / "report.html").exists() and not (run / "paper.json").exists()
