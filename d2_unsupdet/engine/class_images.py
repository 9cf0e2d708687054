"""How many training images show each class, for a model that asks for it."""

from collections import Counter

from torch import nn

from d2_unsupdet.data import catalog
from d2_unsupdet.data.loader import MappedDataset
from d2_unsupdet.detectors import FederatedClasses
from d2_unsupdet.errors import UserError


def count_class_images(model: nn.Module, dataset: MappedDataset, names: catalog.Names) -> None:
    """Tell every FederatedClasses with `images=auto`; crowds do not count, as they do not teach.

    Args:
        model: that will train.
        dataset: its images.
        names: of the data set, whose classes are counted.
    """
    asking = [m for m in model.modules() if isinstance(m, FederatedClasses) and m.auto]
    if not asking:
        return
    shown: Counter[int] = Counter()
    for record in dataset.records:
        objects = [a for a in record.get("annotations", ()) if not a.get("iscrowd")]
        shown.update({annotation["category_id"] for annotation in objects})
    images = [shown[label] for label in range(len(catalog.class_names(names)))]
    if not any(images):
        raise UserError(
            f"Data set '{names}' shows no object, and model.criterion.federated counts them."
        )
    for module in asking:
        module.weigh(images)
