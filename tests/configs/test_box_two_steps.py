"""Every kind of box pretext's recipe: trained, scored without classes, resumed to equal bits."""

import pytest
import torch
import torchvision
from safetensors.torch import load_file

from d2_unsupdet.data import get_dataset
from d2_unsupdet.data.images import read_image
from d2_unsupdet.errors import UserError
from d2_unsupdet.priors import PriorStore, RandomBoxes
from d2_unsupdet.seeding import generator
from tests.configs import layouts
from tests.configs.test_two_steps import run, run_and_resume

COMMON = [
    "dataloader.train.num_workers=0",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.mapper.crop_size=24",
    "train.log_period=1",
    "train.writers=[]",
    "train.max_bad_images=1",
]
TEST = [
    "dataloader.test.mapper.augmentations.0.short_edge_length=64",
    "dataloader.test.num_workers=0",
]
SMALL = [
    "model.detector.backbone.stages.depth=18",
    "model.detector.encoder.dim=64",
    "model.detector.encoder.ffn_dim=64",
    "model.detector.encoder.num_layers=1",
    "model.detector.decoder.num_layers=2",
]
MAPPER = "dataloader.train.mapper"
RESIZED = [f"{MAPPER}.augmentations.0.short_edge_length=[64]"]
CROPPED = [
    f"{MAPPER}.augmentations.1.tfm_or_aug.augs.0.short_edge_length=[80]",
    f"{MAPPER}.augmentations.2.short_edge_length=[64]",
]
VIEWS = [f"{MAPPER}.short_edges=[64]"]
TOY = "dataloader.train.dataset.names=toy_unlabeled:images=4:size=64"
TOY_TEST = [*TEST, "dataloader.test.dataset.names=toy_val:images=4:size=64"]
RECIPES = [  # method, recipe, whether its boxes are stored, overrides
    ("up_detr/imagenet_detr_r50_60ep", False, [*SMALL, *RESIZED]),
    ("up_detr/coco_conditional_detr_r50_120k", False, [*SMALL, *RESIZED, *TEST]),
    ("up_detr/folder_deformable_detr_r18", False, [*SMALL, *RESIZED, TOY]),
    ("up_detr/toy_deta", False, [*RESIZED, TOY, *TOY_TEST]),
    ("detreg/imagenet_detr_r50_60ep", True, [*SMALL, *CROPPED]),
    ("detreg/coco_deformable_detr_r50_50ep", True, [*SMALL, *CROPPED, *TEST]),
    ("detreg/folder_deformable_detr_r18", True, [*SMALL, *CROPPED, TOY, *TOY_TEST]),
    ("detreg/toy_dn_dab_deformable_detr", True, [*CROPPED, TOY, *TOY_TEST]),
    ("siamese_detr/imagenet_detr_r50_300k", True, [*SMALL, *VIEWS]),
    ("siamese_detr/coco_conditional_detr_r50_120k", True, [*SMALL, *VIEWS, *TEST]),
    ("siamese_detr/folder_deformable_detr_r18", True, [*SMALL, *VIEWS, TOY, *TOY_TEST]),
    ("siamese_detr/toy_dab_deformable_detr", True, [*VIEWS, TOY, *TOY_TEST]),
]
QUICK = "up_detr/coco", "siamese_detr/folder"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """ImageNet and COCO in their layouts."""
    root = tmp_path_factory.mktemp("datasets")
    layouts.write_pretraining(root)
    return root


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """What a frozen backbone starts from."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return str(path)


def stored(path, names):
    """Twelve random boxes of each image."""
    with PriorStore(path).write(0, {"source": "random"}) as writer:
        for record in get_dataset(names):
            pixels = read_image(record["file_name"])
            height, width = pixels.shape[:2]
            found = RandomBoxes(count=12)(record, pixels, generator(0, record["file_name"]))
            found = found.scaled(1 / width, 1 / height)
            writer.add(record, width, height, found.boxes, found.scores)
    return str(path)


def data_of(recipe):
    if "imagenet" in recipe:
        return "imagenet_train"
    return "coco_2017_train_unlabeled" if "coco" in recipe else TOY.partition("=")[2]


@pytest.mark.parametrize(
    "recipe, boxes, options",
    [
        pytest.param(*row, marks=() if row[0].startswith(QUICK) else pytest.mark.slow)
        for row in RECIPES
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_box_pretexts(recipe, boxes, options, data, backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    if "r50" in recipe:
        options = [*options, f"train.init_checkpoint={backbone}"]
    if boxes:
        path = stored(tmp_path / "priors", data_of(recipe))
        options = [*options, f"{MAPPER}.source.path={path}"]
    summary = run_and_resume(f"pretrain/{recipe}.py", tmp_path / "run", *COMMON, *options)
    assert summary["kind"] == "pretrain" and len(summary["exports"]) == 2
    named = PriorStore(path).open().sha256 if boxes else None
    assert summary["notes"].get("priors", {}).get("sha256") == named
    scored = any("dataloader.test" in option for option in options)
    assert set(summary["result"] or ()) == ({"bbox_agnostic"} if scored else set())


def test_boxes_that_nobody_stored_are_a_sentence(tmp_path):
    options = [*COMMON, *CROPPED, TOY, *TOY_TEST, f"{MAPPER}.source.path={tmp_path}/none"]
    with pytest.raises(UserError, match="none holds no published boxes: make them with"):
        run("pretrain/detreg/toy_detr.py", tmp_path / "run", *options)


@pytest.mark.slow
def test_a_dense_pretext_first_then_boxes_then_labels(tmp_path):
    """The route without any file of weights; each run starts where the one before ended."""
    views = ["dataloader.train.mapper.size=32", "dataloader.train.mapper.min_overlap_side=4"]
    banks = ["model.queue_size=8", "model.patch_queue_size=16", "model.patch_sizes=[8,4,2,2]"]
    once = ["train.max_iter=1", TOY, *COMMON]
    dense = [o for o in once if "crop_size" not in o]
    dense.append("train.max_iter=20")  # statistics that freeze must have seen some batches
    run("pretrain/dupr/folder_r18.py", tmp_path / "dense", *dense, *views, *banks)
    run(
        "pretrain/detreg/folder_deformable_detr_r18.py",
        tmp_path / "boxes",
        *once,
        *CROPPED,
        *SMALL[1:],
        f"{MAPPER}.source.path={stored(tmp_path / 'priors', data_of('toy'))}",
        f"train.init_checkpoint={tmp_path}/dense/export.safetensors",
        "model.detector.backbone.freeze_at=5",
        "model.detector.backbone.stem.norm=FrozenBN",
    )
    labelled = "dataloader.train.dataset.names=toy_train:images=4:size=64"
    run(
        "finetune/coco/deformable_detr_r50_two_stage_50ep.py",
        tmp_path / "labels",
        *[o for o in once if "crop_size" not in o and o != TOY],
        *CROPPED,
        *TOY_TEST,
        labelled,
        *[o.replace("model.detector.", "model.") for o in SMALL],
        f"train.init_checkpoint={tmp_path}/boxes/export.safetensors",
        "optimizer.lr=1e-12",
    )
    first = load_file(tmp_path / "dense/export.safetensors")
    second = load_file(tmp_path / "boxes/export.safetensors")
    kept = [n for n in first if f"backbone.{n}" in second]
    assert len(kept) == sum(n.startswith("backbone.") for n in second) > 90
    assert all(torch.equal(first[n], second[f"backbone.{n}"]) for n in kept)
    final = torch.load(tmp_path / "labels/model_final.pth", weights_only=False)["model"]
    for name, tensor in second.items():  # a step of 1e-12 leaves what was loaded
        assert torch.allclose(torch.as_tensor(final[name]), tensor, atol=1e-6)
