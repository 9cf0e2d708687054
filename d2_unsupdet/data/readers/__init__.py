"""One reader a format: from files on disk to Detectron2 records (`list[dict]`)."""

from d2_unsupdet.data.readers.cityscapes import read_cityscapes_instances, read_cityscapes_semantic
from d2_unsupdet.data.readers.coco import Categories, coco_categories, read_coco
from d2_unsupdet.data.readers.folder import read_folder
from d2_unsupdet.data.readers.imagenet import imagenet_classes, read_imagenet
from d2_unsupdet.data.readers.lvis import read_lvis
from d2_unsupdet.data.readers.sem_seg import read_sem_seg, sem_seg_classes
from d2_unsupdet.data.readers.stuff27 import read_cityscapes27, read_coco27
from d2_unsupdet.data.readers.voc import VocFolder, read_voc, voc_classes

__all__ = [
    "Categories",
    "VocFolder",
    "coco_categories",
    "imagenet_classes",
    "read_cityscapes27",
    "read_cityscapes_instances",
    "read_cityscapes_semantic",
    "read_coco",
    "read_coco27",
    "read_folder",
    "read_imagenet",
    "read_lvis",
    "read_sem_seg",
    "read_voc",
    "sem_seg_classes",
    "voc_classes",
]
