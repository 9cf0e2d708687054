"""A row as commands: how long, on which images, from which boxes; nothing is run."""

from dataclasses import replace

from d2_unsupdet.engine.config import load_config
from d2_unsupdet.evaluation.probes import SGD_PROTOCOL
from d2_unsupdet.protocols import select
from d2_unsupdet.protocols import stages as stages_module
from d2_unsupdet.protocols.options import Options
from d2_unsupdet.protocols.stages import plan
from tests.protocols.test_run import ROOT


def test_lengths_keep_their_units():
    (row,) = select("joindet-update-10ep-nms")
    pretrain, *finetunings = plan(row, Options(scale=0.1))
    assert "train.max_iter=50 epochs" in pretrain.words  # of a tenth of the images
    assert "train.refresh.period=10 epochs" in pretrain.words
    assert "model.prior_update._target_=d2_unsupdet.priors.NmsUpdate" in pretrain.words
    assert [stage.seed for stage in finetunings] == [0, 1, 2]
    assert all("train.max_iter=1 epochs" in stage.words for stage in finetunings)
    (row,) = select("dupr-voc-dupr")
    assert "train.max_iter=20 epochs" in plan(row, Options(scale=0.1))[0].words


def test_a_seed_draws_its_own_labels():
    (row,) = select("dupr-coco-1pct-random")
    stages = plan(row, Options(seeds=(0, 3)))
    assert "dataloader.train.dataset.subset=1%@seed3" in stages[1].words
    (row,) = select("toy-detector-detreg")  # its subset follows the seed already
    assert not any("dataset.subset" in word for word in plan(row, Options())[-1].words)


def test_boxes_come_before_what_learns_them(tmp_path):
    (row,) = select("detreg-few-1pct-detreg")
    options = Options(weights="swav.pth", output=tmp_path)
    boxes, pretrain, _ = plan(row, options)
    assert boxes.words[0] == "tools/extract_priors.py"
    assert "coco_2017_train_unlabeled" in boxes.words
    assert f"dataloader.train.mapper.source.path={boxes.folder}" in pretrain.words
    assert "train.init_checkpoint=swav.pth" in pretrain.words
    assert boxes.folder == tmp_path / "boxes/coco_2017_train_selective_search"
    share = ("pretrain:dataloader.train.dataset.subset=1%",)
    boxes, pretrain, _ = plan(row, replace(options, overrides=share))
    assert boxes.words[-4:-2] == ("--subset", "1%") and boxes.folder.name.endswith("_1%")


def test_boxes_that_the_recipe_has_are_taken(tmp_path, monkeypatch):
    (row,) = select("detreg-few-1pct-detreg")
    monkeypatch.setattr(stages_module, "ROOT", tmp_path)
    monkeypatch.setattr(stages_module, "_load", lambda *_: load_config(str(ROOT / config)))
    config = row.pretrain.config
    store = tmp_path / "output/priors/coco_2017_train_selective_search"
    (boxes, *_) = plan(replace(row, finetune=None), Options(output=tmp_path / "out"))
    assert boxes.folder.is_relative_to(tmp_path / "out")
    monkeypatch.setattr(stages_module, "has_boxes", lambda folder: folder == store)
    for scale in (1, 0.01):  # which serves a trial too
        options = Options(output=tmp_path / "out", scale=scale)
        (boxes, *_) = plan(replace(row, finetune=None), options)
        assert boxes.folder == store


def test_a_trial_finds_boxes_in_its_share_of_the_images(tmp_path):
    (row,) = select("detreg-few-1pct-detreg")
    boxes, pretrain, finetune = plan(row, Options(output=tmp_path, scale=0.01))
    assert boxes.words[-4:-2] == ("--subset", "1%@seed0")
    assert boxes.folder.parent == tmp_path / "scale-0.01/boxes"
    assert "dataloader.train.dataset.subset=1%@seed0" in pretrain.words
    assert "train.max_iter=50 epochs" in pretrain.words  # of a hundredth of the images
    assert "train.max_iter=20 epochs" in finetune.words


def test_a_trial_refreshes_the_boxes_of_its_share_alone(tmp_path):
    """JoinDet looks at every image that it trains on, at each refresh."""
    (row,) = select("joindet-few-1pct-joindet")
    pretrain, _ = plan(row, Options(output=tmp_path, scale=0.01))
    assert "dataloader.train.dataset.subset=1%@seed0" in pretrain.words
    assert "train.max_iter=50 epochs" in pretrain.words
    assert "train.refresh.period=10 epochs" in pretrain.words
    pretrain, _ = plan(row, Options(output=tmp_path))
    assert not any("subset" in word for word in pretrain.words)


def test_a_trial_has_a_short_probe():
    (row,) = select("dupr-places-pooled-dupr")
    assert plan(row, Options(scale=0.5))[-1].words[-2:] == ("--epochs", "28")
    (row,) = select("dupr-linear-dupr")
    assert plan(row, Options(scale=0.01))[-1].words[-2:] == ("--epochs", "1")
    assert "--epochs" not in plan(row, Options())[-1].words
    assert SGD_PROTOCOL.epochs == stages_module.LINEAR_EPOCHS


def test_a_plan_says_nothing_of_what_a_training_will_say(caplog):
    (row,) = select("joindet-update-10ep-nms")
    stages_module._loaded.cache_clear()
    plan(row, Options())
    assert not caplog.records
