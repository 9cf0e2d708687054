# Two augmented views of an image and where they overlap, for every dense pretext.
from detectron2.config import LazyCall as L

from d2_unsupdet.data import PairedViewMapper, build_train_loader, get_dataset
from d2_unsupdet.data.photometric import Photometric

dataloader = dict(
    train=L(build_train_loader)(
        # Any registered name, or "folder:/path/to/images".
        dataset=L(get_dataset)(names="imagenet_train"),
        mapper=L(PairedViewMapper)(
            size=224,
            scale=[0.2, 1.0],
            photometric=L(Photometric)(  # MoCo v2's
                brightness=0.4,
                contrast=0.4,
                saturation=0.4,
                hue=0.1,
                jitter=0.8,
                grayscale=0.2,
                blur=0.5,
                sigma=[0.1, 2.0],  # pixels of a view: less for smaller views
            ),
        ),
        total_batch_size=256,
        seed="${train.seed}",
        num_workers=4,
    ),
)
