"""The dilated FCN's recipes: twins alike, trained, scored, drawn, resumed, better than chance."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.evaluation import SemSegEvaluator
from PIL import Image

from d2_unsupdet.data import catalog, get_dataset
from d2_unsupdet.engine.config import load_config, to_plain
from d2_unsupdet.engine.run import prepare, train
from d2_unsupdet.errors import UserError
from tests.configs.test_dense_siam_segmentation import SHORT, write_regions
from tests.configs.twins import load_twins, optimizer_settings

CONFIGS = Path(__file__).parents[2] / "configs"
TOY = str(CONFIGS / "finetune/toy/fcn.py")
CITYSCAPES = CONFIGS / "finetune/cityscapes/fcn_r50_90k.yaml"
TINY = [
    *SHORT,
    "dataloader.train.dataset.names=toy_sem_seg_train:images=8:size=64",
    "dataloader.train.mapper.augmentations.0.size=48",
]


def run(output: Path, *overrides: str, config: str = TOY, resume: bool = False) -> dict:
    options = [*TINY, *overrides, f"train.output_dir={output}"]
    cfg = prepare(load_config(config, options), resume=resume)
    train(to_plain(cfg), {"resume": resume, "allow_unsafe": False})
    return json.loads((output / "summary.json").read_text())


def test_it_trains_scores_draws_and_resumes_to_the_same_bits(tmp_path):
    summary = run(tmp_path)
    assert {"mIoU", "pACC", "IoU-background", "IoU-star"} < set(summary["result"]["sem_seg"])
    groups = {e["group"] for e in json.loads((tmp_path / "pictures/index.json").read_text())}
    assert "predictions" in groups
    assert (tmp_path / "model_best.pth").exists()
    (tmp_path / "model_final.pth").unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    again = run(tmp_path, resume=True)
    assert again["state_sha256"] == summary["state_sha256"]
    assert again["result"]["sem_seg"] == pytest.approx(summary["result"]["sem_seg"], nan_ok=True)


DENSE = {
    "moco": ["model.queue_size=8"],
    "dupr": ["model.queue_size=8", "model.patch_queue_size=16", "model.patch_keys=1"],
    "simsiam": [],
    "dense_siam": [],
}


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=() if m == "moco" else pytest.mark.slow) for m in DENSE]
)
def test_the_export_of_a_dense_pretext_is_loaded_whole(method, tmp_path, caplog):
    recipe = load_config(
        str(CONFIGS / f"quickstart/pretrain_{method}.py"),
        [
            "dataloader.train.dataset.names=toy_unlabeled:images=4:size=64",
            "dataloader.train.total_batch_size=4",
            "dataloader.train.num_workers=0",
            "train.writers=[]",
            "train.max_iter=1",
            f"train.output_dir={tmp_path}/pre",
            *DENSE[method],
        ],
    )
    train(to_plain(prepare(recipe)), {"resume": False, "allow_unsafe": False})
    export = f"{tmp_path}/pre/export.safetensors"
    options = [f"train.init_checkpoint={export}", "optimizer.lr=1e-12", "train.max_iter=1"]
    run(tmp_path / "fine", *options)
    final = torch.load(tmp_path / "fine/model_final.pth", weights_only=False)["model"]
    from safetensors.torch import load_file

    loaded = load_file(export)
    loaded = {n: v for n, v in loaded.items() if not n.startswith("res5.")}  # it ends with res4
    parameters = [n for n in loaded if "running" not in n and "num_batches" not in n]
    backbone = [n for n in final if n.startswith("backbone.") and n.endswith((".weight", ".bias"))]
    assert len(parameters) == len(backbone) > 20
    for name in parameters:
        assert torch.allclose(torch.as_tensor(final[f"backbone.{name}"]), loaded[name], atol=1e-6)


@pytest.mark.slow
def test_it_learns_what_its_random_start_does_not_know(tmp_path):
    """Regions of four colours, of any brightness and grain."""
    options = ["train.pictures=0", "dataloader.train.total_batch_size=16", "optimizer.lr=0.005"]
    options.append("dataloader.train.mapper.augmentations.0.size=48")
    options.append("model.sem_seg_head.class_weights=null")  # no class is ground
    for part, count, seed in (("train", 160, 0), ("test", 40, 1)):
        write_regions(tmp_path / part, count, seed=seed)
        name = f"sem_seg:{tmp_path}/{part}/labels@{tmp_path}/{part}/images"
        options.append(f"dataloader.{part}.dataset.names={name}")
    start = run(tmp_path / "0", *options, "optimizer.lr=1e-12", "train.max_iter=10")
    trained = run(tmp_path / "1", *options, "train.max_iter=80")
    before, after = (r["result"]["sem_seg"]["mIoU"] for r in (start, trained))
    assert before < 40 and after > 60, (before, after)


def naive_mean_iou(pairs: list, classes: int) -> float:
    """Detectron2's mean: over the classes that are there or predicted."""
    found = []
    for k in range(classes):
        both = sum(int(((t == k) & (p == k)).sum()) for t, p in pairs)
        either = sum(int((((t == k) | (p == k)) & (t != 255)).sum()) for t, p in pairs)
        if either:
            found.append(both / either)
    return 100 * float(np.mean(found))


def test_scores_are_those_of_a_naive_count(tmp_path):
    """Through the model's own output format, with labels that are ignored."""
    from d2_unsupdet.data import sources

    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for number in range(3):
        labels = rng.integers(0, 4, (20, 30)).astype(np.uint8)
        labels[:5] = 255
        Image.fromarray(labels).save(tmp_path / f"labels/{number}.png")
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / f"images/{number}.png")
    name = f"naive_iou_{tmp_path.name}"
    sources.register_sem_seg(name, tmp_path / "images", tmp_path / "labels", tuple("abcd"))
    evaluator, pairs = SemSegEvaluator(name, distributed=False), []
    evaluator.reset()
    for record in get_dataset(name):
        predicted = torch.from_numpy(rng.integers(0, 4, (20, 30)))
        strengths = torch.nn.functional.one_hot(predicted, 4).permute(2, 0, 1).float()
        evaluator.process([record], [{"sem_seg": strengths}])
        pairs.append((np.array(Image.open(record["sem_seg_file_name"])), predicted.numpy()))
    scores = evaluator.evaluate()["sem_seg"]
    assert scores["mIoU"] == pytest.approx(naive_mean_iou(pairs, 4))


def test_the_class_count_is_the_datas(tmp_path):
    cfg = prepare(load_config(TOY, [*TINY, f"train.output_dir={tmp_path}"]))
    assert cfg.model.sem_seg_head.num_classes == 9
    assert instantiate(cfg.dataloader.train.mapper).num_classes == 9
    assert len(catalog.class_names("toy_sem_seg_val")) == 9
    wrong = [*TINY, "model.sem_seg_head.num_classes=8", f"train.output_dir={tmp_path}"]
    with pytest.raises(UserError, match="num_classes=8 contradicts data set"):
        prepare(load_config(TOY, wrong))


def test_the_recipe_is_mocos_and_its_yaml_says_the_same():
    (cfg, model), (twin, theirs) = _twins()
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (model, theirs)]
    assert shapes[0] == shapes[1]
    for net in (model, theirs):
        convs = [m for m in net.backbone.res5.modules() if getattr(m, "kernel_size", 0) == (3, 3)]
        assert [c.dilation for c in convs] == [(2, 2)] * 3 and net.sem_seg_head.stride == 16
        assert [c.dilation for c in net.sem_seg_head.convs] == [(6, 6), (6, 6)]
        assert net.sem_seg_head.predictor.out_channels == 19
        assert sum("norm" in n for n, _ in net.sem_seg_head.named_modules()) == 2
    cfg.model.sem_seg_head.num_classes = 19
    for one in (cfg, twin):
        mapper, multiplier = (
            instantiate(one.dataloader.train.mapper),
            instantiate(one.lr_multiplier),
        )
        crop = mapper.augmentations.augs[0]
        assert (crop.size, crop.least, crop.most, crop.ignore_label) == (769, 0.5, 2.0, 255)
        assert mapper.num_classes == 19 and len(mapper.augmentations.augs) == 2
        assert [round(multiplier(x), 6) for x in (0, 0.69, 0.71, 0.89, 0.91)] == [
            1,
            1,
            0.1,
            0.1,
            0.01,
        ]
        assert one.optimizer.lr == 0.01 and one.dataloader.train.total_batch_size == 16
        assert one.train.max_iter == 90000 and one.train.best_metric == "sem_seg/IoU"
        assert not instantiate(one.dataloader.test.mapper).augmentations.augs  # its own size
    ours, other = optimizer_settings(cfg, model), optimizer_settings(twin, theirs)
    assert ours == other


def _twins() -> list:
    with pytest.MonkeyPatch.context() as patch:
        from d2_unsupdet.engine import config

        original = config.load_config

        def filled(path: str, *args):
            cfg = original(path, *args)
            if path.endswith(".py"):
                cfg.model.sem_seg_head.num_classes = 19
            return cfg

        patch.setattr("tests.configs.twins.load_config", filled)
        return load_twins(CITYSCAPES)


def test_a_yaml_without_square_crops_is_told(tmp_path):
    with pytest.raises(UserError, match="trains on square crops"):
        load_config(str(CITYSCAPES), ["INPUT.CROP.ENABLED", "False"])
