"""Registration by function: one function a format, each a `Source` of the catalog.

Registering reads nothing; relative paths are looked for when the data are asked for.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from d2_unsupdet.data import readers
from d2_unsupdet.data.catalog import Source, check, locate, register
from d2_unsupdet.data.readers.cityscapes import IGNORE, STUFF_CLASSES, THING_CLASSES
from d2_unsupdet.data.readers.voc import VOC_CLASSES


def register_folder(name: str, root: str | Path) -> None:
    """Any folder of images, any nesting, no labels."""
    register(
        name,
        Source(
            key=("folder", str(root)),
            paths=lambda: [locate(root)],
            layout=f"{root}/\n    any/nesting/*.jpg, *.png, ...",
            read=lambda: readers.read_folder(locate(root)),
            lazy={"image_root": lambda: str(locate(root))},
        ),
    )


def register_coco_json(
    name: str, json_file: str | Path, image_root: str | Path, **fixed: Any
) -> None:
    """A COCO-style JSON and its images; `fixed` metadata (`thing_classes`, ...) saves a parse."""

    def categories() -> readers.Categories:
        check([name])
        return readers.coco_categories(locate(json_file))

    register(
        name,
        Source(
            key=("coco", str(json_file), str(image_root), tuple(sorted(fixed))),
            paths=lambda: [locate(json_file), locate(image_root)],
            layout=f"{json_file}\n{image_root}/\n    *.jpg (the file_name of each image)",
            read=lambda: readers.read_coco(locate(json_file), locate(image_root)),
            metadata={"evaluator_type": "coco", **fixed},
            lazy={
                "json_file": lambda: str(locate(json_file)),
                "image_root": lambda: str(locate(image_root)),
                "thing_classes": lambda: list(categories().names),
                "thing_dataset_id_to_contiguous_id": lambda: categories().labels(),
            },
        ),
    )


def register_voc(
    name: str,
    root: str | Path,
    split: str,
    year: int = 2012,
    classes: tuple[str, ...] = VOC_CLASSES,
    *,
    difficult: bool = True,
) -> None:
    """One split of a PASCAL VOC folder; `year` only selects how Detectron2 computes the AP."""

    def paths() -> list[Path]:
        place = locate(root)
        return [place / "ImageSets/Main" / f"{split}.txt", place / "Annotations"]

    register(
        name,
        Source(
            key=("voc", str(root), split, year, classes, difficult),
            paths=paths,
            layout=f"{root}/\n    Annotations/*.xml\n    ImageSets/Main/{split}.txt\n"
            "    JPEGImages/*.jpg",
            read=lambda: readers.read_voc(locate(root), split, classes, difficult=difficult),
            metadata={
                "thing_classes": list(classes),
                "split": split,
                "year": year,
                "evaluator_type": "pascal_voc",
            },
            lazy={"dirname": lambda: str(locate(root))},
        ),
    )


def register_imagenet(name: str, root: str | Path, split: str = "train") -> None:
    """Class folders; `label` and `image_classes` are for probes, there are no boxes."""

    def place() -> Path:
        return locate(root) / split

    def classes() -> list[str]:
        check([name])
        return readers.imagenet_classes(place())

    register(
        name,
        Source(
            key=("imagenet", str(root), split),
            paths=lambda: [place()],
            layout=f"{root}/\n    {split}/\n        <class>/*.JPEG",
            read=lambda: readers.read_imagenet(place()),
            lazy={"image_root": lambda: str(place()), "image_classes": classes},
        ),
    )


def _cityscapes_source(
    kind: str, root: str | Path, split: str, suffix: str, read: Callable, fixed: dict[str, Any]
) -> Source:
    def folders() -> list[Path]:
        return [locate(root) / part / split for part in ("leftImg8bit", "gtFine")]

    return Source(
        key=(kind, str(root), split),
        paths=folders,
        layout=f"{root}/\n    leftImg8bit/{split}/<city>/*_leftImg8bit.png\n"
        f"    gtFine/{split}/<city>/*_gtFine_{suffix}",
        read=lambda: read(*folders()),
        metadata={
            "thing_classes": list(THING_CLASSES),
            "stuff_classes": list(STUFF_CLASSES),
            **fixed,
        },
        lazy={"image_dir": lambda: str(folders()[0]), "gt_dir": lambda: str(folders()[1])},
    )


def register_cityscapes_instances(name: str, root: str | Path, split: str) -> None:
    """Boxes and polygons of the eight object classes, from `*_instanceIds.png`."""
    read, fixed = readers.read_cityscapes_instances, {"evaluator_type": "cityscapes_instance"}
    kind = "cityscapes_instances"
    register(name, _cityscapes_source(kind, root, split, "instanceIds.png", read, fixed))


def register_cityscapes_semantic(name: str, root: str | Path, split: str) -> None:
    """The 19 classes, from `*_labelTrainIds.png` (made by datasets/prepare_cityscapes.py)."""
    fixed = {"evaluator_type": "cityscapes_sem_seg", "ignore_label": IGNORE}
    read, kind = readers.read_cityscapes_semantic, "cityscapes_sem_seg"
    register(name, _cityscapes_source(kind, root, split, "labelTrainIds.png", read, fixed))


def register_sem_seg(
    name: str,
    image_root: str | Path,
    label_root: str | Path,
    classes: Sequence[str],
    *,
    suffix: str = ".png",
    ignore_label: int = 255,
) -> None:
    """Images and label maps of the same relative path; pixel values are indices into `classes`."""
    register(
        name,
        Source(
            key=("sem_seg", str(image_root), str(label_root), tuple(classes), suffix, ignore_label),
            paths=lambda: [locate(image_root), locate(label_root)],
            layout=f"{image_root}/\n    any/nesting/name.jpg\n"
            f"{label_root}/\n    any/nesting/name{suffix}",
            read=lambda: readers.read_sem_seg(
                locate(image_root), locate(label_root), suffix=suffix
            ),
            metadata={
                "stuff_classes": list(classes),
                "ignore_label": ignore_label,
                "evaluator_type": "sem_seg",
            },
            lazy={
                "image_root": lambda: str(locate(image_root)),
                "sem_seg_root": lambda: str(locate(label_root)),
            },
        ),
    )
