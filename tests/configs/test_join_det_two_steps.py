"""Every kind of JoinDet recipe: trained with new priors at each step, resumed to equal bits."""

import json

import pytest
import torch
import torchvision

from d2_unsupdet.priors import PriorStore
from tests.configs import layouts
from tests.configs.test_box_two_steps import COMMON, CROPPED, MAPPER, SMALL, TEST, TOY, TOY_TEST
from tests.configs.test_two_steps import run_and_resume

REFRESH = [
    "train.refresh.period=1",
    "dataloader.refresh.mapper.augmentations.0.short_edge_length=64",
]
JITTER = [f"{MAPPER}.augmentations.1.size=[64,80]"]
LARGE = "dataloader.refresh.mapper.augmentations.0.short_edge_length=192"  # 6 x 8 cells
ROWS = [
    ("imagenet_deformable_detr_r50_5ep", [*SMALL, *JITTER]),
    ("coco_deformable_detr_r50_50ep", [*SMALL, *JITTER, *TEST]),
    ("coco_deformable_detr_r50_single_scale_50ep", [*SMALL, *JITTER, *TEST, LARGE]),
    ("folder_deformable_detr_r18", [*SMALL, *JITTER, TOY]),
    ("toy_conditional_detr", [*CROPPED, TOY, *TOY_TEST]),
    ("toy_deta", [*CROPPED, TOY, *TOY_TEST]),
]
QUICK = "coco_deformable_detr_r50_single_scale_50ep"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """ImageNet, COCO and a ResNet-18 to start from."""
    root = tmp_path_factory.mktemp("datasets")
    layouts.write_pretraining(root)
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), root / "resnet18.pth")
    return root


@pytest.mark.parametrize(
    "recipe, options",
    [pytest.param(*row, marks=() if row[0] == QUICK else pytest.mark.slow) for row in ROWS],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_join_det(recipe, options, data, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    if "r50" in recipe:
        options = [*options, f"train.init_checkpoint={data / 'resnet18.pth'}"]
    config = f"pretrain/join_det/{recipe}.py"
    summary = run_and_resume(config, tmp_path, *COMMON, *REFRESH, *options)
    assert summary["kind"] == "pretrain" and len(summary["exports"]) == 2
    store = PriorStore(tmp_path / "priors")
    assert store.generations == [0, 1, 2]
    for number in store.generations:
        store.open(number).verify()
    assert "no pictures of" not in (tmp_path / "log.txt").read_text()
    pictures = json.loads((tmp_path / "pictures/index.json").read_text())
    # The same images under every generation, those of before the resume included, each once.
    drawn = [(e["image"], e["iteration"]) for e in pictures if e["group"] == "prior_evolution"]
    images = {image for image, _ in drawn}
    assert images and sorted(drawn) == sorted((image, n) for image in images for n in range(3))
    assert {e["iteration"] for e in pictures if e["group"] == "eigen"} == {3}
