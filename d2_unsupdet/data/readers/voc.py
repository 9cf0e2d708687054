"""PASCAL VOC: one XML a image, a text file a split; or a folder of images and XML files.

Labelling tools write the XML files beside the images, with classes and image formats of any kind.
"""

import os
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from detectron2.structures import BoxMode

from d2_unsupdet.data.readers.common import first_must_exist, read_names, read_text
from d2_unsupdet.data.readers.folder import image_files
from d2_unsupdet.errors import UserError, nearest

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip


EVERYTHING = "all"  # the split that needs no list


@dataclass(frozen=True)
class VocFolder:
    """Where a folder keeps its parts.

    Args:
        root: holds Annotations, ImageSets and JPEGImages; or images and XML files side by side.
    """

    root: Path

    @property
    def annotations(self) -> Path:
        """The folder of the XML files."""
        official = self.root / "Annotations"
        return official if official.is_dir() else self.root

    @property
    def images(self) -> Path:
        """The folder of the images."""
        places = (self.root / name for name in ("JPEGImages", "images"))
        return next((place for place in places if place.is_dir()), self.annotations)

    def list_file(self, split: str) -> Path:
        """The names of a split's images, one a line."""
        return self.root / "ImageSets" / "Main" / f"{split}.txt"

    def needed(self, split: str) -> list[Path]:
        """What has to be there."""
        listed = self.list_file(split)
        if split == EVERYTHING and not listed.exists():
            return [self.annotations]
        return [listed, self.root / "Annotations"]

    def ids(self, split: str) -> list[str]:
        """Names without extension; the split "all" needs no list."""
        listed = self.list_file(split)
        if split == EVERYTHING and not listed.exists():
            found = self.xml_files()
            if not found:
                raise UserError(f"{self.annotations} holds no XML file.")
            return [p.relative_to(self.annotations).with_suffix("").as_posix() for p in found]
        lines = [line.split() for line in read_text(listed).splitlines() if line.strip()]
        if not lines:
            raise UserError(f"{listed} names no image.")
        # lists of one class hold a second column: -1 marks an image without that class
        return [parts[0] for parts in lines if len(parts) == 1 or parts[1] != "-1"]

    def xml_files(self) -> list[Path]:
        """All of them, sorted."""
        return sorted(self.annotations.rglob("*.xml"))

    def image_names(self) -> dict[str, str]:
        """Path of an image in its folder without the extension -> with it."""
        found: dict[str, str] = {}
        for name in sorted(image_files(self.images, [])):
            found.setdefault(os.path.splitext(name)[0], name)
        return found


def read_voc(
    root: Path,
    split: str,
    classes: tuple[str, ...] | None = VOC_CLASSES,
    *,
    difficult: bool = True,
) -> list[dict]:
    """Records of `ImageSets/Main/<split>.txt`, or of all XML files where the split is "all".

    Args:
        root: the folder with Annotations, ImageSets and JPEGImages, or of images and XML files.
        split: name of the list without `.txt`.
        classes: names in label order; None for those of `voc_classes`.
        difficult: keep objects marked difficult, as Detectron2 does for training; each annotation
            carries the mark.
    """
    folder = VocFolder(root)
    names, known = folder.image_names(), voc_classes(root) if classes is None else classes
    records = [_record(folder, names, i, known, difficult) for i in folder.ids(split)]
    first_must_exist(records, folder.annotations)
    return records


def voc_classes(root: Path) -> tuple[str, ...]:
    """The classes of a folder in label order.

    Those of `classes.txt`, one a line; VOC's 20 in a folder named VOC2007 or the like; else every
    name that its XML files hold, sorted, whatever the split, so that all splits agree.
    """
    listed = root / "classes.txt"
    if listed.is_file():
        names = read_names(listed)
        if not names or len(set(names)) < len(names):
            raise UserError(f"{listed} holds no class, or one twice; write one name a line.")
        return tuple(names)
    if re.fullmatch(r"VOC20\d\d", root.name):
        return VOC_CLASSES
    folder = VocFolder(root)
    return _found_classes(folder, folder.annotations.stat().st_mtime_ns)


@cache
def _found_classes(folder: VocFolder, changed: int) -> tuple[str, ...]:
    nodes = (node for path in folder.xml_files() for node in _parse(path).iter("object"))
    found = {(node.findtext("name") or "").strip() for node in nodes}
    return tuple(sorted(found - {""}))


def _parse(path: Path) -> ET.Element:
    try:
        return ET.parse(path).getroot()
    except (OSError, ET.ParseError) as error:
        raise UserError(f"Cannot read the annotation file {path}: {error}.") from error


def _record(
    folder: VocFolder,
    names: dict[str, str],
    image_id: str,
    classes: tuple[str, ...],
    difficult: bool,
) -> dict:
    path = folder.annotations / f"{image_id}.xml"
    tree = _parse(path)
    named = os.path.splitext((tree.findtext("filename") or "").replace("\\", "/"))[0]
    name = names.get(image_id) or names.get(os.path.basename(named)) or f"{image_id}.jpg"
    file_name = os.path.join(folder.images, name)
    width, height = _size(tree, file_name)
    objects = [_annotation(node, classes, path) for node in tree.iter("object")]
    return {
        "file_name": file_name,
        "image_id": image_id,
        "height": height,
        "width": width,
        "annotations": [o for o in objects if difficult or not o["difficult"]],
    }


def _size(tree: ET.Element, file_name: str) -> tuple[int, int]:
    width, height = (int(float(tree.findtext(f"size/{k}") or 0)) for k in ("width", "height"))
    if width > 0 and height > 0:
        return width, height
    from d2_unsupdet.data.images import image_size

    return image_size(file_name)


def _annotation(node: ET.Element, classes: tuple[str, ...], path: Path) -> dict:
    name = (node.findtext("name") or "").strip()
    if name not in classes:
        raise UserError(
            f"{path} holds the class {name!r}, which is not one of the {len(classes)} of this data "
            f"set.{nearest(name, classes) or ' A classes.txt in the folder can list them.'}"
        )
    box = node.find("bndbox")  # of the object itself: body parts have boxes of their own
    if box is None:
        raise UserError(f"{path} holds an object {name!r} without a box.")
    x0, y0, x1, y1 = (float(box.findtext(k) or "nan") for k in ("xmin", "ymin", "xmax", "ymax"))
    return {
        "category_id": classes.index(name),
        # VOC counts pixels from 1 and includes the last: (1, 1, w, h) is the whole image
        "bbox": [x0 - 1, y0 - 1, x1, y1],
        "bbox_mode": BoxMode.XYXY_ABS,
        "iscrowd": 0,
        "difficult": int(node.findtext("difficult") or 0),
    }
