# What the box pretexts on the embedded images have in common: sizes for two CPU cores, 8 epochs.
from .data.priors import crop_colours
from .data.proposals import proposals
from .schedule import multistep

lr_multiplier = multistep([3], total=4, warmup=0.1)


def toy_loaders(**loaders):
    """Training loaders and the test set, with small pictures of boxes."""
    found = loaders | proposals("toy_val", test_edge=128, max_size=128, workers=1)
    found["test"].batch_size = 16
    found["train"].mapper.crop_size = 64
    found["train"].mapper.photometric = crop_colours(sigma=[0.1, 1.0])  # 2.0 * 64 / 128
    return found


def toy_length(train):
    """Half of it before the first scores."""
    train.max_iter = "8 epochs"
    train.eval_period = "4 epochs"
    train.max_bad_images = 0.2  # images without boxes count
    return train
