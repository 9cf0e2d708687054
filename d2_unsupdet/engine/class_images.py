"""How many training images show each class, for a model that asks for it."""

from collections import Counter

from detectron2.config import instantiate
from omegaconf import DictConfig

from d2_unsupdet.detectors import FederatedClasses
from d2_unsupdet.engine.config import nodes, target_of
from d2_unsupdet.errors import UserError


def resolve_class_images(cfg: DictConfig, classes: int) -> None:
    """Fill in `images=auto` of every FederatedClasses; without one no label is read."""
    asking = []
    for path, node in nodes(cfg.model, "model"):
        if target_of(node) is not FederatedClasses:
            continue
        if node.get("images", "auto") == "auto":
            asking.append((path, node))
        elif len(node.images) != classes:
            raise UserError(
                f"{path}.images has {len(node.images)} numbers, but the data has {classes} "
                "classes; set it to auto, to count the training data."
            )
    if not asking:
        return
    shown: Counter[int] = Counter()
    for record in instantiate(cfg.dataloader.train.dataset):
        if "annotations" not in record:
            raise UserError(
                f"{asking[0][0]}.images=auto counts the labels of "
                f"'{cfg.dataloader.train.dataset.names}', which has none; write the numbers."
            )
        shown.update({annotation["category_id"] for annotation in record["annotations"]})
    for _, node in asking:
        node.images = [shown[label] for label in range(classes)]
