"""A wrong value of an augmentation is a sentence with its key, before any process starts."""

from pathlib import Path

import numpy as np
import pytest
from detectron2.config import LazyCall
from detectron2.data import transforms as T
from omegaconf import OmegaConf

from d2_unsupdet.engine.config import load_config
from d2_unsupdet.engine.mapper_checks import check_mapper
from d2_unsupdet.engine.run import prepare
from d2_unsupdet.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
FIRST = "dataloader.{part}.mapper.augmentations.0"


def check(recipe, override, part):
    mapper = load_config(str(CONFIGS / recipe), [override]).dataloader[part].mapper
    check_mapper(mapper, f"dataloader.{part}.mapper")


@pytest.mark.parametrize(
    "part, value, said",
    [
        ("test", "short_edge_length=[192]", r"short_edge_length=\[192\].*must be two values"),
        ("test", "short_edge_length=abc", "short_edge_length='abc'"),
        ("train", "max_size=abc", "max_size='abc'.* is no ResizeShortestEdge that works: "),
        ("train", "sample_style=any", "sample_style='any'"),
    ],
)
def test_a_resize_that_cannot_be(part, value, said):
    key = FIRST.format(part=part)
    with pytest.raises(UserError, match=f"{key}.*{said}") as raised:
        check("quickstart/finetune_detector.py", f"{key}.{value}", part)
    assert "\n" not in str(raised.value)


def test_the_innermost_part_is_named():
    mapper = load_config(str(CONFIGS / "finetune/coco/detr_r50_300ep.py")).dataloader.train.mapper
    places = [
        f"dataloader.train.mapper.augmentations.{i}" for i in range(len(mapper.augmentations))
    ]
    (place,) = [p for p, a in zip(places, mapper.augmentations, strict=True) if "tfm_or_aug" in a]
    key = f"{place}.tfm_or_aug.augs.0.max_size"
    with pytest.raises(UserError, match=key.removesuffix(".max_size").replace(".", r"\.")):
        check("finetune/coco/detr_r50_300ep.py", f"{key}=abc", "train")


def test_views_of_a_pretext_too():
    with pytest.raises(UserError, match="iou='abc'"):
        check(
            "pretrain/siamese_detr/toy_deformable_detr.py",
            "dataloader.train.mapper.views.iou=abc",
            "train",
        )


class Stretched(T.Augmentation):
    """Of a user's own: it wants more than pixels, from a mapper that gives it."""

    def __init__(self, power=1.0):
        self.power = float(power)

    def get_transform(self, image, file_name):
        raise AssertionError("is not tried")


@pytest.mark.parametrize(
    "augmentation",
    [
        LazyCall(T.ResizeTransform)(h=1080, w=1920, new_h=540, new_w=960),  # one camera's images
        LazyCall(T.RandomCrop)(crop_type="absolute", crop_size=[2000, 2000]),
        LazyCall(T.RandomCrop_CategoryAreaConstraint)(crop_type="relative", crop_size=[0.9, 0.9]),
        LazyCall(T.RandomApply)(
            tfm_or_aug=LazyCall(T.ResizeTransform)(h=1080, w=1920, new_h=540, new_w=960), prob=1.0
        ),
        LazyCall(Stretched)(power=2),
        T.RandomFlip(),
    ],
    ids=lambda value: str(getattr(value, "_target_", value)),
)
def test_what_works_on_some_images_passes(augmentation):
    cfg = OmegaConf.create({"augmentations": []}, flags={"allow_objects": True})
    cfg.augmentations.append(augmentation)
    check_mapper(cfg, "dataloader.train.mapper")


def test_ones_own_augmentation_must_be_buildable():
    cfg = OmegaConf.create({"augmentations": []}, flags={"allow_objects": True})
    cfg.augmentations.append(LazyCall(Stretched)(power="x"))
    with pytest.raises(
        UserError, match=r"augmentations\.0 \(power='x'\) is no Stretched that works"
    ):
        check_mapper(cfg, "dataloader.train.mapper")


def test_the_images_of_a_refresh_too(tmp_path):
    options = [
        "dataloader.train.dataset.names=toy_unlabeled:images=2:size=64",
        "dataloader.refresh.mapper.augmentations.0.short_edge_length=abc",
        f"train.output_dir={tmp_path}",
    ]
    recipe = str(CONFIGS / "pretrain/join_det/toy_deformable_detr.py")
    with pytest.raises(UserError, match="refresh.mapper.augmentations.0 .short_edge_length='abc'"):
        prepare(load_config(recipe, options))


def test_before_any_work_and_without_taking_random_numbers(tmp_path):
    sets = [
        f"dataloader.{part}.dataset.names=toy_val:images=2:size=64" for part in ("train", "test")
    ]
    options = [*sets, "dataloader.train.dataset.subset=null", f"train.output_dir={tmp_path}"]
    recipe = str(CONFIGS / "quickstart/finetune_detector.py")
    before = np.random.get_state()[1].copy()
    prepare(load_config(recipe, options))
    assert (np.random.get_state()[1] == before).all()
    wrong = f"{FIRST.format(part='test')}.short_edge_length=[96]"
    with pytest.raises(UserError, match="short_edge_length"):
        prepare(load_config(recipe, [*options, wrong]), eval_only=True)
