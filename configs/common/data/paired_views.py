# Two augmented views of an image and where they overlap, for every dense pretext.
from detectron2.config import LazyCall as L

from d2_unsupdet.data import PairedViewMapper, build_train_loader, get_dataset

dataloader = dict(
    train=L(build_train_loader)(
        # Any registered name, or "folder:/path/to/images".
        dataset=L(get_dataset)(names="imagenet_train"),
        mapper=L(PairedViewMapper)(size=224),
        total_batch_size=256,
        seed="${train.seed}",
        num_workers=4,
    ),
)
