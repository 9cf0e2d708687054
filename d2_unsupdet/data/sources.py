"""Registration by function: one function a format, each a `Source` of the catalog.

Registering reads nothing; relative paths are looked for when the data are asked for.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from d2_unsupdet.data import readers
from d2_unsupdet.data.catalog import Source, check, locate, register
from d2_unsupdet.data.readers.cityscapes import IGNORE, STUFF_CLASSES, THING_CLASSES
from d2_unsupdet.data.readers.places import (
    CATEGORIES,
    LISTS,
    places_classes,
    places_paths,
    read_places,
)
from d2_unsupdet.data.readers.stuff27 import (
    CITYSCAPES27,
    CITYSCAPES27_THINGS,
    COCO27,
    COCO27_THINGS,
    CURATED,
    cityscapes27_lookup,
    coco27_lookup,
)
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
    layout = f"{json_file}\n{image_root}/\n    *.jpg (the file_name of each image)"
    fixed = {"evaluator_type": "coco", **fixed}
    _register_json(name, json_file, image_root, fixed, readers.read_coco, layout)


def register_lvis(name: str, json_file: str | Path, image_root: str | Path, **fixed: Any) -> None:
    """An LVIS v1 JSON and the folder that holds `train2017` and `val2017`; scored as LVIS is."""
    classes = len(fixed["thing_classes"]) if "thing_classes" in fixed else None
    layout = f"{json_file}\n{image_root}/\n    train2017/*.jpg\n    val2017/*.jpg"
    fixed = {"evaluator_type": "lvis", **fixed}
    read = partial(readers.read_lvis, classes=classes)
    _register_json(name, json_file, image_root, fixed, read, layout)


def _register_json(
    name: str,
    json_file: str | Path,
    image_root: str | Path,
    fixed: dict[str, Any],
    read: Callable[[Path, Path], list[dict]],
    layout: str,
) -> None:
    def categories() -> readers.Categories:
        check([name])
        return readers.coco_categories(locate(json_file))

    kind = fixed["evaluator_type"]
    register(
        name,
        Source(
            key=(kind, str(json_file), str(image_root), tuple(sorted(fixed))),
            paths=lambda: [locate(json_file), locate(image_root)],
            layout=layout,
            read=lambda: read(locate(json_file), locate(image_root)),
            metadata=fixed,
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
    classes: tuple[str, ...] | None = VOC_CLASSES,
    *,
    difficult: bool = True,
) -> None:
    """One split of a PASCAL VOC folder; `year` only selects how Detectron2 computes the AP.

    `classes=None` takes those of the folder, and the split "all" every XML file in it.
    """

    def own_classes() -> list[str]:
        check([name])
        return list(readers.voc_classes(locate(root)))

    register(
        name,
        Source(
            key=("voc", str(root), split, year, classes, difficult),
            paths=lambda: readers.VocFolder(locate(root)).needed(split),
            layout=f"{root}/\n    Annotations/*.xml\n    ImageSets/Main/{split}.txt\n"
            "    JPEGImages/*.jpg\n(or images and XML files side by side, and the split 'all')",
            read=lambda: readers.read_voc(locate(root), split, classes, difficult=difficult),
            metadata={
                **({} if classes is None else {"thing_classes": list(classes)}),
                "split": split,
                "year": year,
                "evaluator_type": "pascal_voc",
            },
            lazy={
                "dirname": lambda: str(locate(root)),
                **({"thing_classes": own_classes} if classes is None else {}),
            },
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


def register_places(name: str, root: str | Path, edition: str, split: str) -> None:
    """Scenes of Places365 or Places205, in class folders or by the official lists."""
    layout = f"{root}/\n    {split}/<class>/*.jpg\nor the official lists and folders:\n"
    lists, folders = LISTS[edition, split]
    categories = f"    {CATEGORIES[0]}\n" if edition == "365" else ""
    layout += f"{root}/\n    {lists[0]}\n{categories}    {folders[0]}/"

    def classes() -> list[str]:
        check([name])
        return places_classes(locate(root), edition, split)

    register(
        name,
        Source(
            key=("places", str(root), edition, split),
            paths=lambda: places_paths(locate(root), edition, split),
            layout=layout,
            read=lambda: read_places(locate(root), edition, split),
            lazy={"image_classes": classes},
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


def register_coco_stuff27(name: str, root: str | Path, split: str) -> None:
    """PiCIE's 27 classes; without the folder of label maps a training split has images only."""
    images, labels = f"{root}/{split}", f"{root}/stuffthingmaps/{split}"
    curated = f"{root}/curated/{split}/{CURATED}"
    labelled = split.startswith("val")

    def paths() -> list[Path]:
        return [locate(path) for path in ([images, labels] if labelled else [images])]

    optional = "" if labelled else "   (if labels are read)"
    register(
        name,
        Source(
            key=("coco_stuff27", str(root), split),
            paths=paths,
            layout=f"{images}/*.jpg\n{labels}/*.png{optional}\n{curated}   (else all images)",
            read=lambda: readers.read_coco27(locate(images), locate(labels), locate(curated)),
            metadata={
                "stuff_classes": list(COCO27),
                "thing_class_ids": list(COCO27_THINGS),
                "label_lookup": coco27_lookup(),
                "ignore_label": IGNORE,
                "evaluator_type": "clustering",
            },
            lazy={
                "image_root": lambda: str(locate(images)),
                "sem_seg_root": lambda: str(locate(labels)),
            },
        ),
    )


def register_cityscapes27(
    name: str, root: str | Path, splits: Sequence[str], *, labelled: bool
) -> None:
    """PiCIE's 27 classes, label ids 7 to 33, of several splits together."""

    def folders(part: str) -> list[Path]:
        return [locate(root) / part / split for split in splits]

    labels = "".join(f"    gtFine/{s}/<city>/*_gtFine_labelIds.png\n" for s in splits)
    register(
        name,
        Source(
            key=("cityscapes27", str(root), tuple(splits), labelled),
            paths=lambda: folders("leftImg8bit") + (folders("gtFine") if labelled else []),
            layout=f"{root}/\n"
            + "".join(f"    leftImg8bit/{s}/<city>/*_leftImg8bit.png\n" for s in splits)
            + (labels if labelled else ""),
            read=lambda: readers.read_cityscapes27(
                folders("leftImg8bit"), folders("gtFine") if labelled else None
            ),
            metadata={
                "stuff_classes": list(CITYSCAPES27),
                "thing_class_ids": list(CITYSCAPES27_THINGS),
                "label_lookup": cityscapes27_lookup(),
                "ignore_label": IGNORE,
                "evaluator_type": "clustering",
            },
        ),
    )


def register_label_maps(name: str, label_root: str | Path, image_root: str | Path) -> None:
    """Label maps whose classes are those of `classes.txt` beside them, else numbers."""

    @cache
    def classes() -> tuple[str, ...]:
        check([name])
        return tuple(readers.sem_seg_classes(locate(label_root)))

    register_sem_seg(name, image_root, label_root, classes)


def register_sem_seg(
    name: str,
    image_root: str | Path,
    label_root: str | Path,
    classes: Sequence[str] | Callable[[], Sequence[str]],
    *,
    suffix: str = ".png",
    ignore_label: int = 255,
) -> None:
    """Images and label maps of the same relative path; pixel values are indices into `classes`,
    which can be a function that finds them when they are asked for."""
    later = classes if callable(classes) else None
    known = None if callable(classes) else tuple(classes)
    register(
        name,
        Source(
            key=("sem_seg", str(image_root), str(label_root), known, suffix, ignore_label),
            paths=lambda: [locate(image_root), locate(label_root)],
            layout=f"{image_root}/\n    any/nesting/name.jpg\n"
            f"{label_root}/\n    any/nesting/name{suffix}",
            read=lambda: readers.read_sem_seg(
                locate(image_root), locate(label_root), suffix=suffix
            ),
            metadata={
                **({} if known is None else {"stuff_classes": list(known)}),
                "ignore_label": ignore_label,
                "evaluator_type": "sem_seg",
            },
            lazy={
                "image_root": lambda: str(locate(image_root)),
                "sem_seg_root": lambda: str(locate(label_root)),
                **({"stuff_classes": lambda: list(later())} if later else {}),
            },
        ),
    )
