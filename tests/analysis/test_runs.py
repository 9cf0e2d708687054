"""Run folders are read whole, partial, damaged and hostile."""

import json

import pytest

from d2_unsupdet.analysis.runs import config_value, read_run, read_runs
from d2_unsupdet.analysis.score_names import headline, is_of_one_class, is_score, split_score
from tests.analysis.run_folders import add_picture, make_run


def test_a_whole_run(tmp_path):
    run = read_run(make_run(tmp_path / "a"))
    assert run.notes == []
    assert run.scores == {"bbox/AP": 30.0, "bbox/AP50": 45.0, "bbox/AP-cat": 1.0}
    assert headline(run.scores) == {"bbox/AP": 30.0, "bbox/AP50": 45.0}
    assert run.curves["bbox/AP"][0] == (39, 6.0) and len(run.curves["bbox/AP"]) == 5
    assert run.last_iteration == 199 and run.kind == "finetune"
    assert config_value(run, "train.max_iter") == 200 and config_value(run, "a.b") is None


def test_stated_results_win_over_logged_ones(tmp_path):
    run = read_run(make_run(tmp_path / "a", result={"bbox": {"AP": 31.5}, "note": "x"}))
    assert run.scores["bbox/AP"] == 31.5 and run.scores["bbox/AP50"] == 45.0


def test_empty_folder_and_no_folder(tmp_path):
    assert "no metrics.json" in " ".join(read_run(tmp_path).notes)
    assert "no folder" in read_run(tmp_path / "nothing").notes[0]


def test_damaged_lines_are_counted_and_the_rest_kept(tmp_path):
    folder = make_run(tmp_path / "a")
    with open(folder / "metrics.json", "a") as file:
        file.write('{"iteration": "x"}\n[1]\nnull\n{"iteration": 219, "total_loss": NaN}\n{"iter')
    run = read_run(folder)
    assert len(run.curves["total_loss"]) == 10
    assert "4 of 15 lines" in run.notes[0]
    assert "not finite" in run.notes[1] and "total_loss" in run.notes[1]


def test_undefined_scores_are_no_remark(tmp_path):
    folder = make_run(tmp_path / "a")
    with open(folder / "metrics.json", "a") as file:
        file.write('{"iteration": 219, "bbox/AP-dog": NaN, "bbox/APl": NaN}\n')
    assert read_run(folder).notes == []


def test_a_repeated_iteration_counts_once(tmp_path):
    folder = make_run(tmp_path / "a")
    with open(folder / "metrics.json", "a") as file:
        file.write('{"iteration": 19, "total_loss": 9.0}\n')
    assert read_run(folder).curves["total_loss"][0] == (19, 9.0)


def test_other_files_may_be_damaged(tmp_path):
    folder = make_run(tmp_path / "a")
    (folder / "summary.json").write_text("[1]")
    (folder / "environment.json").write_text("{")
    (folder / "config.yaml").write_bytes(b"\xff: [")
    run = read_run(folder)
    assert [n for n in run.notes if "not a JSON object" in n] == run.notes and len(run.notes) == 2
    assert config_value(run, "train") is None


def test_pictures_come_in_the_order_of_the_index_and_stay_in_the_folder(tmp_path):
    folder = make_run(tmp_path / "a")
    (tmp_path / "secret.png").write_bytes(b"x")
    add_picture(folder, "b.png", caption="second", group="views")
    add_picture(folder, "a.png", caption="first", group="views")
    add_picture(folder, "c.png")
    index = folder / "pictures/index.json"
    entries = json.loads(index.read_text())[:2]
    outside = [{"file": "../../secret.png"}, {"file": "/etc/hostname"}, {"file": "gone.png"}, 3]
    index.write_text(json.dumps(entries + outside))
    run = read_run(folder)
    assert [p.path.name for p in run.pictures] == ["b.png", "a.png", "c.png"]
    assert [p.caption for p in run.pictures] == ["second", "first", "c"]
    assert len(run.notes) == 3


def test_equal_names_are_told_apart(tmp_path):
    make_run(tmp_path / "x/run")
    make_run(tmp_path / "y/run")
    names = [
        r.name for r in read_runs([tmp_path / "x/run", tmp_path / "y/run", tmp_path / "y/run"])
    ]
    assert names == ["x/run", "y/run", "y/run (2)"]


def test_what_a_run_is_before_it_has_ended(tmp_path):
    """Its curves stand beside those of its finished sisters; a probe makes no finetuning."""
    models = {
        "d2_unsupdet.pretext.moco_v2.MoCoV2": "pretrain",
        "d2_unsupdet.detectors.detr.DETR": "finetune",
        "detectron2.modeling.meta_arch.rcnn.GeneralizedRCNN": "finetune",
        "mine.Model": "run",
    }
    for i, (model, kind) in enumerate(models.items()):
        probed = 30.0 if kind == "pretrain" else None
        folder = make_run(tmp_path / f"{i}", ap=probed, config=f"model: {{_target_: {model}}}")
        (folder / "summary.json").unlink()
        assert read_run(folder).kind == kind


@pytest.mark.parametrize(
    ("name", "task", "metric", "of_one"),
    [
        ("bbox/AP", "bbox", "AP", False),
        ('bbox/AP-a/b "c"', "bbox", 'AP-a/b "c"', True),
        ("bbox/AP-x-ray/segm/AP", "bbox", "AP-x-ray/segm/AP", True),
        ("bbox_agnostic/AR@100", "bbox_agnostic", "AR@100", False),
        ("sem_seg/mIoU-things", "sem_seg", "mIoU-things", True),
        ("sem_seg/legacy-mIoU-things", "sem_seg", "legacy-mIoU-things", True),
        ("knn/res5/top1", "knn/res5", "top1", False),
        (
            "coco:/bbox/my-val/a.json@/bbox/my-val/bbox/AP",
            "coco:/bbox/my-val/a.json@/bbox/my-val/bbox",
            "AP",
            False,
        ),
        ("total_loss", "", "total_loss", False),
    ],
)
def test_a_score_is_of_a_task_and_perhaps_of_one_class(name, task, metric, of_one):
    assert split_score(name) == (task, metric)
    assert is_of_one_class(name) == of_one


def test_what_counts_as_a_score():
    assert is_score("bbox/AP") and is_score("toy_val/segm/AP50") and is_score("bbox_coco/AP")
    assert not is_score("total_loss") and not is_score("moco/accuracy") and not is_score("bbox")
