"""From a record to a sample: two views for pretraining, image and objects for finetuning.

A mapper draws from NumPy's global generator, as Detectron2's do; the training data set seeds that
from (seed, epoch, index), which makes every sample a function of its place.
"""

import copy
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Instances, PolygonMasks

from d2_unsupdet.data.annotations import clean_annotations
from d2_unsupdet.data.images import BadImage, ImageFile, read_image, read_label_map, shrink_for
from d2_unsupdet.data.photometric import Photometric
from d2_unsupdet.data.records import identity
from d2_unsupdet.data.views import CropPair, RandomCrop
from d2_unsupdet.errors import UserError


class PairedViewMapper:
    """Two independently augmented crops of an image, and where they overlap.

    >>> sample = PairedViewMapper(size=224)({"file_name": "street.jpg", "image_id": 7})
    >>> sample["views"]          # uint8 RGB (2, 3, 224, 224)
    >>> sample["overlap"]        # float32 (2, 4), XYXY in each view's pixels, mirroring included
    >>> sample["rectangles"]     # float32 (2, 4), XYXY of each view in the pixels of the image

    Args:
        size: side of both views.
        scale: least and most share of the image's area that a crop covers.
        ratio: least and most width / height of a crop.
        flip: chance of mirroring, for each view.
        photometric: colours and blur; by default MoCo v2's recipe.
        min_overlap_side: least side of the overlap in pixels of either view.
        tries: how often the second crop is drawn to reach it. A pair that does not has `valid`
            False and zero boxes.
    """

    def __init__(
        self,
        *,
        size: int = 224,
        scale: tuple[float, float] = (0.2, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        photometric: Photometric | None = None,
        min_overlap_side: float = 16,
        tries: int = 10,
    ) -> None:
        self.law = RandomCrop(
            size=size, scale=(scale[0], scale[1]), ratio=(ratio[0], ratio[1]), flip=flip
        )
        self.photometric = Photometric() if photometric is None else photometric
        self.min_overlap_side, self.tries = min_overlap_side, tries

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        seed = int(np.random.randint(2**63 - 1, dtype=np.int64))
        image = ImageFile(record["file_name"])
        pair, views = self.views_of(image, seed)
        return {
            **identity(record),
            "views": torch.from_numpy(views),
            "overlap": torch.from_numpy(pair.overlap),
            "flipped": torch.tensor([pair.first.flipped, pair.second.flipped]),
            "rectangles": torch.tensor([pair.first.rectangle, pair.second.rectangle]).float(),
            "valid": pair.valid,
        }

    def views_of(self, image: ImageFile, seed: int) -> tuple[CropPair, np.ndarray]:
        """The crops and their pixels (2, 3, size, size): a function of the image and the seed."""
        rng = np.random.default_rng(seed)
        # Colours first: a second crop that is drawn again shifts no other number.
        operations = [self.photometric.draw(rng) for _ in range(2)]
        least, size = self.min_overlap_side, self.law.size
        pair = self.law.draw_pair(rng, image.width, image.height, min_side=least, tries=self.tries)
        crops = [pair.first, pair.second]
        # Nothing is lost where even the smaller crop is shrunk further.
        decoded = image.decode(shrink=shrink_for(min(crop.short_side for crop in crops), size))
        if decoded.shrink > 1:
            crops = [crop.snapped(decoded.shrink, decoded.origin) for crop in crops]
            pair = CropPair.of(crops[0], crops[1], min_side=least)
        views = np.empty((2, 3, size, size), np.uint8)
        for v, crop in enumerate(crops):
            view = crop.shrunk(decoded.shrink, decoded.origin).apply_image(decoded.pixels)
            view = self.photometric.apply(view, operations[v])
            planes = list(views[v])
            written = cv2.split(view, planes)  # in place, seven times as fast as transposing
            assert np.may_share_memory(written[0], planes[0])
        return pair, views


class DetectionMapper:
    """Detectron2's finetuning sample: an augmented image and its objects.

    >>> mapper = DetectionMapper(is_train=True, augmentations=[T.ResizeShortestEdge(800, 1333)])
    >>> sample = mapper(record)                    # image, instances, height, width, ...

    Args:
        is_train: whether objects and semantic labels are read.
        augmentations: Detectron2 augmentations, applied in order.
        image_format: "RGB" or "BGR", as the model was trained.
        use_instance_mask: whether objects carry masks.
        instance_mask_format: "polygon" or "bitmask".
        recompute_boxes: fit boxes to their masks after the augmentations, for random crops.
        max_aspect: images longer than this many times their width (or the reverse) are refused:
            resized to a usual length they would be a line.
    """

    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str = "RGB",
        use_instance_mask: bool = False,
        instance_mask_format: str = "polygon",
        recompute_boxes: bool = False,
        max_aspect: float = 100,
    ) -> None:
        if recompute_boxes and not use_instance_mask:
            raise UserError("recompute_boxes fits boxes to masks: set use_instance_mask=True too.")
        if instance_mask_format not in ("polygon", "bitmask"):
            raise UserError(
                f"instance_mask_format '{instance_mask_format}' is not known, "
                "use 'polygon' or 'bitmask'."
            )
        self.is_train = is_train
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.recompute_boxes = recompute_boxes
        self.max_aspect = max_aspect

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        image = read_image(record["file_name"], format=self.image_format)
        height, width = image.shape[:2]
        self._check_size(record, width, height)
        labels = ("annotations", "sem_seg_file_name")
        sample = {k: v for k, v in record.items() if k not in labels}
        sample |= {"height": height, "width": width}

        aug_input = T.AugInput(image, sem_seg=self._semantics(record, height, width))
        transforms = self.augmentations(aug_input)
        sample["image"] = torch.from_numpy(np.ascontiguousarray(aug_input.image.transpose(2, 0, 1)))
        if aug_input.sem_seg is not None:
            sample["sem_seg"] = torch.from_numpy(aug_input.sem_seg.astype(np.int64))
        if self.is_train and "annotations" in record:
            annotations = clean_annotations(record["annotations"], width, height)
            sample["instances"] = self._instances(
                copy.deepcopy(annotations), transforms, aug_input.image.shape[:2], record
            )
        return sample

    def _check_size(self, record: dict[str, Any], width: int, height: int) -> None:
        expected = record.get("width", width), record.get("height", height)
        if expected != (width, height):
            raise BadImage(
                record["file_name"],
                f"the upright image has {width}x{height} pixels, its labels were made for "
                f"{expected[0]}x{expected[1]}",
            )
        if max(width, height) > self.max_aspect * min(width, height):
            raise BadImage(
                record["file_name"],
                f"{width}x{height} pixels, one side over {self.max_aspect:g} times the other",
            )

    def _semantics(self, record: dict[str, Any], height: int, width: int) -> np.ndarray | None:
        if not self.is_train or "sem_seg_file_name" not in record:
            return None
        labels = read_label_map(record["sem_seg_file_name"])
        if labels.shape != (height, width):
            raise BadImage(
                record["sem_seg_file_name"],
                f"the label map has {labels.shape[1]}x{labels.shape[0]} pixels, "
                f"its image {width}x{height}",
            )
        # Detectron2 resizes uint8 or floating-point arrays only.
        return labels if labels.dtype == np.uint8 else labels.astype(np.float32)

    def _instances(
        self,
        annotations: list[dict],
        transforms: T.TransformList,
        shape: tuple[int, int],
        record: dict[str, Any],
    ) -> Instances:
        for annotation in annotations:
            annotation.pop("keypoints", None)
            if not self.use_instance_mask:
                annotation.pop("segmentation", None)
            elif "segmentation" not in annotation:
                raise UserError(
                    f"{record['file_name']} has an object without a mask; "
                    "set use_instance_mask=False to train on boxes."
                )
            try:
                detection_utils.transform_instance_annotations(annotation, transforms, shape)
            except ModuleNotFoundError as error:  # fvcore cuts polygons with shapely
                raise UserError(
                    f"cropping polygon masks needs the package {error.name}: pip install "
                    f"{error.name}, or store the masks of {record['file_name']} as run lengths."
                ) from error
        instances = self._assemble(annotations, shape, record)
        if self.recompute_boxes:
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return detection_utils.filter_empty_instances(instances)

    def _assemble(
        self, annotations: list[dict], shape: tuple[int, int], record: dict[str, Any]
    ) -> Instances:
        polygons = self.instance_mask_format == "polygon"
        if polygons and any(isinstance(a.get("segmentation"), np.ndarray) for a in annotations):
            raise UserError(
                f"{record['file_name']} has run-length masks; set instance_mask_format='bitmask'."
            )
        instances = detection_utils.annotations_to_instances(
            annotations, shape, mask_format=self.instance_mask_format
        )
        if self.use_instance_mask and not annotations:
            # An image without objects has the same fields as the others in its batch.
            empty = PolygonMasks([]) if polygons else BitMasks(torch.zeros((0, *shape)).bool())
            instances.gt_masks = empty
        return instances
