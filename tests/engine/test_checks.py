"""Bad input is a sentence before any work; a folder that holds a run or other files is left."""

import sys
from pathlib import Path

import pytest

from d2_unsupdet.engine.checks import prepare
from d2_unsupdet.engine.config import dump_config, load_config
from d2_unsupdet.errors import UserError
from tests.scripts import load_script

ROOT = Path(__file__).parents[2]


@pytest.fixture
def check(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / name).touch()

    def run(*overrides, **options):
        cfg = load_config(
            str(ROOT / "configs/quickstart/pretrain_moco.py"),
            [
                f"dataloader.train.dataset.names=folder:{tmp_path / 'images'}",
                f"train.output_dir={tmp_path / 'run'}",
                *overrides,
            ],
        )
        return prepare(cfg, **options)

    return run


@pytest.mark.parametrize(
    "override, sentence",
    [
        ("train.amp=true", "train.amp=True is not a section with enabled, dtype"),
        ("train.accumulate=0", "train.accumulate=0 is out of range: it must be at least 1"),
        ("train.accumulate=2.5", "train.accumulate=2.5 is not a whole number"),
        ("train.log_period=0", "train.log_period=0 is out of range: it must be at least 1"),
        ("train.seed=true", "train.seed=True is not a whole number"),
        ("train.max_iter=1.2.3", "train.max_iter='1.2.3' is no length"),
        ("train.max_iter=0", "train.max_iter=0 is no length"),
        ("train.max_iter=null", "train.max_iter=None is no length"),
        ("train.eval_period=5 epocs", "train.eval_period='5 epocs' is no length"),
        ("train.eval_period=false", "train.eval_period=False is no length"),
        ("train.checkpointer.period=often", "train.checkpointer.period='often' is no length"),
        ("train.checkpointer.max_to_keep=-1", "max_to_keep=-1 is out of range"),
        ("train.sync_bn=1", "train.sync_bn=1 is not true or false"),
        ("train.clip_grad_norm=inf", "train.clip_grad_norm=inf is out of range"),
        ("train.ema.decay=nan", "train.ema.decay=nan is out of range: it must be from 0 to 1"),
        ("train.ema.decay=9", "train.ema.decay=9 is out of range: it must be from 0 to 1"),
        ("train.writers=wandb", "train.writers='wandb' is not a list"),
        ("train.output_dir=7", "train.output_dir=7 is not text"),
        ("train.amp.dtype=int8", "train.amp.dtype='int8' is not one of bf16, fp16"),
        ("train.init.expected_sha256=7", "train.init.expected_sha256=7 is not text"),
        (
            "train.init.allow_missing=heads",
            "allow_missing='heads' is not a list; write",
        ),
        ("train.device=gpu", "train.device='gpu' is no device; use auto, cpu or cuda"),
        ("train.device=cuda:99", r"train.device='cuda:99': PyTorch finds \d+ CUDA device"),
        ("train.init_checkpoint=https://a.b/c.pth", "'https://a.b/c.pth' is a URL; nothing is"),
        ("optimizer.lr=fast", "optimizer.lr='fast' is not a number; write for example 0.02"),
        ("optimizer.lr=-1", "optimizer.lr=-1 is out of range: it must be at least 0"),
        ("dataloader.train.total_batch_size=0", "total_batch_size=0 is out of range: it must be"),
        ("dataloader.train.num_workers=two", "dataloader.train.num_workers='two' is not a whole"),
        ("dataloader.train=null", "Training needs dataloader.train"),
    ],
)
def test_a_bad_value_is_a_sentence(check, override, sentence):
    with pytest.raises(UserError, match=sentence):
        check(override)


@pytest.mark.parametrize(
    "override",
    [
        "train.eval_period=0",
        "train.checkpointer.period=0",
        "train.max_iter=1e4",
        "train.eval_period=2 epochs",
        "train.init.expected_sha256=abc",
        "train.init.allow_missing=['heads.*']",
        "train.clip_grad_norm=5",
        "train.device=cpu",
        "train.ema.decay=1",
    ],
)
def test_a_good_value_passes(check, override):
    check(override)


def test_missing_weights_name_the_key_the_folder_and_the_nearest_file(check, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moco.pth").touch()
    with pytest.raises(UserError) as error:
        check("train.init_checkpoint=moko.pth")
    assert str(error.value) == (
        "train.init_checkpoint=moko.pth: There is no file moko.pth "
        f"(looked in {tmp_path.resolve()}). Did you mean 'moco.pth'?"
    )
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="^train.init_checkpoint=run: run is a folder"):
        check("train.init_checkpoint=run")


@pytest.mark.parametrize("file", ["model_0000099.pth", "model_final.pth", "model_best.pth"])
def test_a_folder_with_a_checkpoint_is_refused_unless_resumed(check, tmp_path, file):
    (tmp_path / "run").mkdir()
    check()
    (tmp_path / "run" / file).touch()
    with pytest.raises(UserError, match=rf"already holds a run \({file}\); go on with --resume"):
        check()
    check(resume=True)
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000199.pth")
    with pytest.raises(UserError, match=r"already holds a run \(model_0000199.pth\)"):
        check()


def test_a_prepared_config_prepares_again_from_its_file(check, tmp_path):
    saved = tmp_path / "config.yaml"
    saved.write_text(dump_config(check()))
    assert dump_config(prepare(load_config(str(saved)), resume=True)) == saved.read_text()


@pytest.fixture
def quickstart():
    return load_script("tools/quickstart.py")


def test_quickstart_deletes_nothing_but_runs(quickstart, monkeypatch, tmp_path, check):
    commands = []
    monkeypatch.setattr(quickstart, "run", lambda *arguments: commands.append(arguments))
    other, run = tmp_path / "finetune", tmp_path / "run"
    for folder in (other, run):
        folder.mkdir()
        (folder / "thesis.txt").write_text("mine")
    (other / "config.yaml").write_text("train: mine\n")
    monkeypatch.setattr(sys, "argv", ["quickstart", "--output", str(tmp_path)])
    with pytest.raises(UserError, match="finetune' is not a run of this project"):
        quickstart.main()
    assert not commands and (other / "thesis.txt").exists()

    (run / "config.yaml").write_text(dump_config(check()))
    quickstart.train("finetune.py", run)
    assert len(commands) == 1 and not run.exists()


@pytest.mark.parametrize("steps", ["0", "-1", "nan", "inf"])
def test_quickstart_wants_a_positive_length(quickstart, monkeypatch, steps):
    monkeypatch.setattr(sys, "argv", ["quickstart", f"--steps={steps}"])
    with pytest.raises(UserError, match="is not a positive number"):
        quickstart.main()
