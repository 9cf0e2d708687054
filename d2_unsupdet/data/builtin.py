"""The names that are there from the start: Detectron2's own, and ours for unlabelled images.

Detectron2's readers for some of its names need packages that are not core, and all of them read
DETECTRON2_DATASETS once, at import. Those names are kept and their readers replaced.
"""

from functools import cache
from pathlib import Path

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

from d2_unsupdet.data import catalog, sources
from d2_unsupdet.data.scenes import CLASSES
from d2_unsupdet.errors import UserError

_COCO_JSON = {
    "2014_train": ("train2014", "instances_train2014"),
    "2014_val": ("val2014", "instances_val2014"),
    "2014_minival": ("val2014", "instances_minival2014"),
    "2014_valminusminival": ("val2014", "instances_valminusminival2014"),
    "2017_train": ("train2017", "instances_train2017"),
    "2017_val": ("val2017", "instances_val2017"),
    "2017_val_100": ("val2017", "instances_val2017_100"),
    "2017_test": ("test2017", "image_info_test2017"),
    "2017_test-dev": ("test2017", "image_info_test-dev2017"),
}
_LVIS_JSON = {
    "train": "lvis_v1_train",
    "val": "lvis_v1_val",
    "test_dev": "lvis_v1_image_info_test_dev",
    "test_challenge": "lvis_v1_image_info_test_challenge",
}


@cache
def register_all() -> None:
    """Register the names and the path prefixes; the second call does nothing."""
    _register_coco()
    _register_lvis()
    for year, splits in ((2007, ("train", "val", "trainval", "test")),
                         (2012, ("train", "val", "trainval"))):  # fmt: skip
        for split in splits:
            sources.register_voc(f"voc_{year}_{split}", f"VOC{year}", split, year)
    for split in ("train", "val", "test"):
        name = f"cityscapes_fine_{{}}_{split}"
        sources.register_cityscapes_instances(name.format("instance_seg"), "cityscapes", split)
        sources.register_cityscapes_semantic(name.format("sem_seg"), "cityscapes", split)
    for split in ("train", "val"):
        sources.register_imagenet(f"imagenet_{split}", "imagenet", split)
        sources.register_imagenet(f"imagenet100_{split}", "imagenet100", split)
        for edition in ("365", "205"):
            name = f"places{edition}"
            sources.register_places(f"{name}_{split}", name, edition, split)
        sources.register_coco_stuff27(f"coco_stuff27_{split}", "coco", f"{split}2017")
    # PiCIE learns from the frames without fine labels, and is scored on all that have them.
    sources.register_cityscapes27(
        "cityscapes27_train", "cityscapes", ("test", "train_extra"), labelled=False
    )
    sources.register_cityscapes27("cityscapes27_val", "cityscapes", ("val", "train"), labelled=True)
    for name in ("toy_unlabeled", "toy_train", "toy_val", "toy_sem_seg_train", "toy_sem_seg_val"):
        _register_toy(name)
        catalog.register_prefix(name, _register_toy)
    _register_prefixes()


def _register_coco() -> None:
    things = [c for c in COCO_CATEGORIES if c["isthing"]]
    fixed = {
        "thing_classes": [c["name"] for c in things],
        "thing_colors": [c["color"] for c in things],
        "thing_dataset_id_to_contiguous_id": {c["id"]: i for i, c in enumerate(things)},
    }
    for name, (folder, labels) in _COCO_JSON.items():
        annotations = f"coco/annotations/{labels}.json"
        sources.register_coco_json(f"coco_{name}", annotations, f"coco/{folder}", **fixed)
    # the images alone: no annotation file is read (450 MB for train2017), none need exist
    sources.register_folder("coco_2017_train_unlabeled", "coco/train2017")
    sources.register_folder("coco_2017_unlabeled", "coco/unlabeled2017")


def _register_lvis() -> None:
    """Detectron2's names, whose reader needs a package that current NumPy broke."""
    classes = sorted(LVIS_CATEGORIES, key=lambda c: c["id"])
    fixed = {
        "thing_classes": [c["synonyms"][0] for c in classes],  # as Detectron2 calls them
        "thing_dataset_id_to_contiguous_id": {c["id"]: i for i, c in enumerate(classes)},
    }
    for split, file in _LVIS_JSON.items():
        sources.register_lvis(f"lvis_v1_{split}", f"lvis/{file}.json", "coco", **fixed)


def _register_toy(name: str, options: str = "") -> None:
    """The embedded data set; drawing it waits until the data are asked for."""

    def folder() -> Path:
        from d2_unsupdet.data import (
            toy,
        )  # not above: `python -m d2_unsupdet.data.toy` would run it twice

        return toy.prepare(toy.parse(name))

    def read() -> list[dict]:
        from d2_unsupdet.data import toy

        return toy.read(name)

    if options:
        from d2_unsupdet.data import toy

        toy.parse(name)  # an option that is not understood is an error now, not when reading
    labelled = {
        "thing_classes": list(CLASSES),
        "stuff_classes": ["background", *CLASSES],
        "thing_class_ids": list(range(1, 1 + len(CLASSES))),  # in stuff_classes
        "ignore_label": 255,
        "thing_dataset_id_to_contiguous_id": {k + 1: k for k in range(len(CLASSES))},
        "evaluator_type": "sem_seg" if name.startswith("toy_sem_seg") else "coco",
    }
    catalog.register(
        name,
        catalog.Source(
            key=("toy", name),
            paths=list,
            layout="drawn on first use",
            read=read,
            metadata={} if name.startswith("toy_unlabeled") else labelled,
            lazy={
                "json_file": lambda: str(folder() / "instances.json"),
                "image_root": lambda: str(folder() / "images"),
            },
        ),
    )


def _register_prefixes() -> None:
    catalog.register_prefix("folder", sources.register_folder)
    catalog.register_prefix("coco", _coco)
    catalog.register_prefix("lvis", _lvis)
    catalog.register_prefix("voc", _voc)
    catalog.register_prefix("imagenet", _imagenet)
    catalog.register_prefix("cityscapes_instances", _cityscapes_instances)
    catalog.register_prefix("cityscapes_sem_seg", _cityscapes_sem_seg)
    catalog.register_prefix("sem_seg", _sem_seg)


def _two(name: str, rest: str, meaning: str) -> tuple[str, str]:
    first, at, second = rest.rpartition("@")
    if not (at and first and second):
        raise UserError(f"The data set name '{name}' is incomplete: expected {meaning}.")
    return first, second


def _coco(name: str, rest: str) -> None:
    sources.register_coco_json(name, *_two(name, rest, "coco:<annotations.json>@<image folder>"))


def _lvis(name: str, rest: str) -> None:
    form = "lvis:<annotations.json>@<folder of train2017>"
    sources.register_lvis(name, *_two(name, rest, form))


def _voc(name: str, rest: str) -> None:
    root, split = _two(name, rest, "voc:<folder with ImageSets>@<split>")
    year = 2007 if "2007" in Path(root).name else 2012
    sources.register_voc(name, root, split, year, classes=None)


def _imagenet(name: str, rest: str) -> None:
    folder = Path(rest)
    sources.register_imagenet(name, folder.parent, folder.name)


def _cityscapes_instances(name: str, rest: str) -> None:
    form = "cityscapes_instances:<folder with gtFine>@<split>"
    sources.register_cityscapes_instances(name, *_two(name, rest, form))


def _cityscapes_sem_seg(name: str, rest: str) -> None:
    form = "cityscapes_sem_seg:<folder with gtFine>@<split>"
    sources.register_cityscapes_semantic(name, *_two(name, rest, form))


def _sem_seg(name: str, rest: str) -> None:
    form = "sem_seg:<folder of label maps>@<folder of images>"
    sources.register_label_maps(name, *_two(name, rest, form))
