"""Every architecture on every format it is used with: trained, scored, resumed to equal bits."""

import importlib.util
import json
from pathlib import Path

import pytest

from d2_unsupdet.engine.config import load_config, to_plain
from d2_unsupdet.engine.run import prepare, train
from tests.configs import layouts
from tests.scripts import load_script

CONFIGS = Path(__file__).parents[2] / "configs"
COMMON = ["dataloader.train.num_workers=0", "train.log_period=1", "train.writers=[]"]
DETECTION = [
    *COMMON,
    "dataloader.train.total_batch_size=2",
    "dataloader.train.mapper.augmentations.0.short_edge_length=[64]",
    "dataloader.test.mapper.augmentations.0.short_edge_length=64",
    "dataloader.test.num_workers=0",
    "train.precise_bn.num_iter=1",
    "train.pictures=1",
]
FPN = ["model.backbone.bottom_up.stages.depth=18"]
C4 = [
    "model.backbone.stages.depth=18",
    "model.roi_heads.batch_size_per_image=8",
    "model.proposal_generator.post_nms_topk=[20,10]",
]
DETR = [
    *COMMON,
    "dataloader.train.total_batch_size=2",
    "dataloader.train.mapper.augmentations.1.tfm_or_aug.augs.0.short_edge_length=[80]",
    "dataloader.train.mapper.augmentations.2.short_edge_length=[64]",
    "dataloader.test.mapper.augmentations.0.short_edge_length=64",
    "dataloader.test.num_workers=0",
    "train.pictures=1",
    "model.backbone.stages.depth=18",
    "model.encoder.dim=64",
    "model.encoder.ffn_dim=64",
    "model.encoder.num_layers=1",
    "model.decoder.num_layers=2",
]
PAIRED = [
    *COMMON,
    "dataloader.train.total_batch_size=4",
    "dataloader.train.mapper.size=32",
    "dataloader.train.mapper.min_overlap_side=4",
]
SEMANTIC = [
    *COMMON,
    "dataloader.train.total_batch_size=2",
    "dataloader.train.mapper.augmentations.0.size=65",
    "dataloader.test.num_workers=0",
    "train.pictures=1",
    "model.backbone.stages.depth=18",
]
SMALL_ROI = ["model.roi_heads.batch_size_per_image=8"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    records = layouts.scenes()
    layouts.write_voc(root, "VOC2007", {"trainval": records[:2], "test": records[2:]})
    layouts.write_voc(root, "VOC2012", {"trainval": records[:1]})
    layouts.write_coco(root, {"train2017": records[:2], "val2017": records[2:]})
    train, val = ("train2017", records[:2]), ("val2017", records[2:])
    layouts.write_lvis(root, {"train": train, "val": val})
    layouts.write_stuff27(root, records[:2], "train2017")
    layouts.write_stuff27(root, records[2:], "val2017")
    halves = {"train": records[:2], "val": records[2:]}
    unlabelled = {"test": records[:2], "train_extra": records[2:]}
    layouts.write_cityscapes(root, {**halves, **unlabelled})
    layouts.write_imagenet(root, records)
    layouts.write_imagenet(root, records, name="imagenet100")
    layouts.write_places365(root, halves)
    layouts.write_places205(root, halves)
    return root


def run(config: str, output: Path, *overrides: str, resume: bool = False) -> dict:
    cfg = load_config(str(CONFIGS / config), [*overrides, f"train.output_dir={output}"])
    train(to_plain(prepare(cfg, resume=resume)), {"resume": resume, "allow_unsafe": False})
    return json.loads((output / "summary.json").read_text())


def run_and_resume(config: str, output: Path, *overrides: str) -> dict:
    """Three steps; then the last again from the checkpoint after the second, which must agree."""
    options = [*overrides, "train.max_iter=3", "train.checkpointer.period=2"]
    summary = run(config, output, *options)
    (output / "model_final.pth").unlink()
    (output / "last_checkpoint").write_text("model_0000001.pth")
    again = run(config, output, *options, resume=True)
    assert again["state_sha256"] == summary["state_sha256"]
    for task, scores in summary["result"].items():
        assert again["result"][task] == pytest.approx(scores, nan_ok=True)
    lines = (output / "metrics.json").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [0, 1, 2]
    (output / "summary.json").unlink()  # a kill after the last checkpoint
    finished = run(config, output, *options, resume=True)
    assert finished["state_sha256"] == summary["state_sha256"]
    assert finished["result"].keys() == summary["result"].keys()
    return summary


@pytest.mark.parametrize(
    "config, options, scores",
    [
        ("finetune/voc/faster_rcnn_r50_c4_24k.py", C4, {"bbox", "bbox_coco"}),
        ("finetune/coco/mask_rcnn_r50_fpn_1x.py", FPN + SMALL_ROI, {"bbox", "segm"}),
        pytest.param(
            "finetune/coco/mask_rcnn_r50_c4_1x.py", C4, {"bbox", "segm"}, marks=pytest.mark.slow
        ),
        pytest.param(
            "finetune/coco/retinanet_r50_fpn_1x.py", FPN, {"bbox"}, marks=pytest.mark.slow
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_detectors(config, options, scores, data, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    options = [*DETECTION, *options]
    assert set(run_and_resume(config, tmp_path, *options)["result"]) == scores


CITYSCAPES = [  # recipe, options, score of Cityscapes' own scripts, evaluator without them, scores
    ("mask_rcnn_r50_fpn.py", [*DETECTION, *FPN, *SMALL_ROI], ("segm", "AP50"),
     "d2_unsupdet.evaluation.CocoEvaluator", {"bbox", "segm"}),
    ("fcn_r50_90k.py", SEMANTIC, ("sem_seg", "iIoU"),
     "detectron2.evaluation.SemSegEvaluator", {"sem_seg"}),
]  # fmt: skip


@pytest.mark.parametrize("config, options, score, evaluator, scores", CITYSCAPES)
def test_cityscapes(config, options, score, evaluator, scores, data, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    other = f"dataloader.evaluator._target_={evaluator}"
    if importlib.util.find_spec("cityscapesscripts") is None:
        summary = run_and_resume(f"finetune/cityscapes/{config}", tmp_path, *options, other)
        assert set(summary["result"]) == scores
        return
    summary = run_and_resume(f"finetune/cityscapes/{config}", tmp_path, *options)
    task, metric = score
    assert set(summary["result"]) == {task} and metric in summary["result"][task]


OWN_LABELS = "coco:coco/annotations/instances_train2017.json@coco/train2017"


@pytest.mark.parametrize(
    "config, options, scores",
    [
        ("coco/detr_r50_300ep.py", [f"dataloader.train.dataset.names={OWN_LABELS}"], {"bbox"}),
        pytest.param(
            "voc/conditional_detr_r50_50ep.py", [], {"bbox", "bbox_coco"}, marks=pytest.mark.slow
        ),
        pytest.param(
            "coco/deformable_detr_r50_1pct.py",
            ["dataloader.train.dataset.subset=2"],
            {"bbox"},
            marks=pytest.mark.slow,
        ),
        ("coco/deformable_detr_r50_two_stage_50ep.py", [], {"bbox"}),
        pytest.param(
            "voc/dab_deformable_detr_r50_50ep.py", [], {"bbox", "bbox_coco"}, marks=pytest.mark.slow
        ),
        pytest.param(
            "coco/dn_dab_deformable_detr_r50_50ep.py", [], {"bbox"}, marks=pytest.mark.slow
        ),
        ("lvis/deta_r50_24ep.py", [], {"bbox"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_detr_family(config, options, scores, data, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    summary = run_and_resume(f"finetune/{config}", tmp_path, *DETR, *options)
    assert set(summary["result"]) == scores


FORMATS = {  # of boxes: training set and test set
    "coco": ("coco_2017_train", "coco_2017_val"),
    "voc": ("voc_2007_trainval,voc_2012_trainval", "voc_2007_test"),
    "lvis": ("lvis_v1_train", "lvis_v1_val"),
    "cityscapes": ("cityscapes_fine_instance_seg_train", "cityscapes_fine_instance_seg_val"),
}
FAMILY = {
    "detr": "detr_r50_300ep",
    "conditional": "conditional_detr_r50_50ep",
    "deformable": "deformable_detr_r50_50ep",
    "two_stage": "deformable_detr_r50_two_stage_50ep",
    "dab": "dab_deformable_detr_r50_50ep",
    "dn": "dn_dab_deformable_detr_r50_50ep",
    "deta": "deta_r50_12ep",
}


@pytest.mark.slow
@pytest.mark.parametrize("labels", FORMATS)
@pytest.mark.parametrize("detector", [*FAMILY, "faster_rcnn_c4", "retinanet"])
def test_every_detector_of_boxes_on_every_format(detector, labels, data, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    recipe = {
        "faster_rcnn_c4": ("voc/faster_rcnn_r50_c4_24k", [*DETECTION, *C4]),
        "retinanet": ("coco/retinanet_r50_fpn_1x", [*DETECTION, *FPN]),
    }
    config, options = recipe.get(detector) or (f"coco/{FAMILY[detector]}", DETR)
    sets = zip(("train", "test"), FORMATS[labels], strict=True)
    options = [*options, *(f"dataloader.{part}.dataset.names={names}" for part, names in sets)]
    if labels == "cityscapes":  # its own scores are of masks
        options += ["dataloader.evaluator._target_=d2_unsupdet.evaluation.CocoEvaluator"]
    summary = run(f"finetune/{config}.py", tmp_path, *options, "train.max_iter=2")
    assert set(summary["result"]) == {"bbox", *(["bbox_coco"] if labels == "voc" else [])}


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["coco27", "cityscapes27"])
def test_segmentation_without_labels(labels, data, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    recipe = {"coco27": "coco_stuff27_r18", "cityscapes27": "cityscapes27_r18"}[labels]
    options = [
        *COMMON,
        "dataloader.train.total_batch_size=4",
        "dataloader.train.mapper.size=32",
        "dataloader.train.mapper.resize=48",
        "dataloader.test.mapper.size=32",
        "dataloader.test.num_workers=0",
        "train.pictures=1",
    ]
    if labels == "coco27":  # two training images
        options += ["dataloader.train.total_batch_size=2"]
    config = f"pretrain/dense_siam_segmentation/{recipe}.py"
    summary = run_and_resume(config, tmp_path, *options)
    assert {"mIoU", "mIoU-things", "mIoU-stuff"} < set(summary["result"]["sem_seg"])


@pytest.mark.slow
@pytest.mark.parametrize("edition", ["365", "205"])
def test_a_probe_on_places(edition, data, tmp_path, monkeypatch, capsys):
    """From pretraining on its images to the linear probe, as docs/probes.md has it."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    names = f"places{edition}_train"
    options = [*PAIRED, "dataloader.train.total_batch_size=2", "model.queue_size=8"]
    options += [f"dataloader.train.dataset.names={names}", "train.max_iter=2"]
    run("pretrain/moco_v2/folder_r18.py", tmp_path / "run", *options)
    probe = ["linear", f"{tmp_path}/run", "--train-data", names]
    probe += ["--test-data", f"places{edition}_val", "--augment", "--unpooled", "--epochs", "2"]
    tool = load_script("tools/probe.py")
    tool.main([*probe, "--size", "64", "--workers", "0", "--out", str(tmp_path)])
    assert json.loads((tmp_path / "linear.json").read_text())["settings"]["unpooled"]
    assert "protocol: places" in capsys.readouterr().out


@pytest.mark.parametrize(
    "names",
    [
        "imagenet_train",
        "coco_2017_train",
        "voc_2007_trainval",
        "folder:cityscapes/leftImg8bit",
        pytest.param("imagenet100_train", marks=pytest.mark.slow),
        pytest.param("places365_train,places205_train", marks=pytest.mark.slow),
        pytest.param("coco_2017_train_unlabeled", marks=pytest.mark.slow),
    ],
)
def test_formats_of_pretraining(names, data, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    options = [*PAIRED, "model.queue_size=8", f"dataloader.train.dataset.names={names}"]
    run_and_resume("pretrain/moco_v2/folder_r18.py", tmp_path, *options)


DUPR = [
    "model.queue_size=8",
    "model.patch_queue_size=16",
    "model.patch_sizes=[8,4,2,1]",
    "model.patch_keys=1",
]


@pytest.mark.parametrize(
    "method, options",
    [
        ("moco_v2", ["model.queue_size=8"]),
        ("dupr", DUPR),
        ("simsiam", []),
        ("dense_siam", ["model.region_start=0.5"]),  # regions are on from the second of three steps
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pretexts(method, options, tmp_path):
    options = [*PAIRED, *options]
    summary = run_and_resume(f"pretrain/{method}/folder_r18.py", tmp_path, *options)
    assert summary["kind"] == "pretrain" and len(summary["exports"]) == 2
