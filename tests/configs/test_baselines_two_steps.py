"""Baselines of the papers' comparisons on miniature data: trained, scored, resumed alike."""

import pytest

from tests.configs import layouts
from tests.configs.test_box_two_steps import (
    COMMON,
    CROPPED,
    MAPPER,
    RESIZED,
    SMALL,
    TEST,
    VIEWS,
    backbone,
    stored,
)
from tests.configs.test_join_det_two_steps import JITTER, REFRESH
from tests.configs.test_two_steps import DETR, run_and_resume

pytestmark = pytest.mark.slow
SCORED = [*TEST, "dataloader.test.dataset.names=coco_2017_val"]
RECIPES = [  # recipe, whether its boxes are stored, overrides
    ("detreg/coco_deformable_detr_r50_single_scale_50ep", True, CROPPED),
    ("detreg/coco_conditional_detr_r50_50ep", True, CROPPED),
    ("detreg/imagenet100_deformable_detr_r50_50ep", True, CROPPED),
    ("siamese_detr/coco_dab_deformable_detr_r50_120k", True, VIEWS),
    ("siamese_detr/coco_dn_dab_deformable_detr_r50_120k", True, VIEWS),
    ("siamese_detr/imagenet100_conditional_detr_r50_50ep", True, VIEWS),
    ("up_detr/imagenet100_deformable_detr_r50_50ep", False, RESIZED),
    ("join_det/imagenet100_deformable_detr_r50_50ep", False, [*JITTER, *REFRESH]),
]

__all__ = ["backbone"]  # a fixture


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    records = layouts.write_pretraining(root)
    (root / "imagenet100").symlink_to(root / "imagenet")
    layouts.write_voc(root, "VOC2007", {"trainval": records[:2], "test": records[2:]})
    layouts.write_voc(root, "VOC2012", {"trainval": records[:1]})
    train, val = ("train2017", records[:2]), ("val2017", records[2:])
    layouts.write_lvis(root, {"train": train, "val": val})
    return root


@pytest.mark.parametrize("recipe, boxes, options", RECIPES, ids=lambda v: v if v else "")
def test_pretraining(recipe, boxes, options, data, backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    options = [*SMALL, *options, *SCORED, f"train.init_checkpoint={backbone}"]
    if boxes:
        names = "coco_2017_train_unlabeled" if "coco" in recipe else "imagenet100_train"
        options.append(f"{MAPPER}.source.path={stored(tmp_path / 'priors', names)}")
    summary = run_and_resume(f"pretrain/{recipe}.py", tmp_path / "run", *COMMON, *options)
    assert set(summary["result"]) == {"bbox_agnostic"} and len(summary["exports"]) == 2


@pytest.mark.parametrize(
    "recipe",
    [
        "coco/detr_r50_pre_norm_150ep",
        "voc/conditional_detr_r50_100q_50ep",
        "voc/deformable_detr_r50_single_scale_10ep",
        "lvis/deta_r50_hungarian_24ep",
    ],
)
def test_finetuning(recipe, data, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    summary = run_and_resume(f"finetune/{recipe}.py", tmp_path, *DETR)
    assert "bbox" in summary["result"]
