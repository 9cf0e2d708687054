# The small Deformable DETR on 50 labelled embedded images; train.init_checkpoint= takes a detector
# that was pretrained without labels.
from ..common.data.detection import detection
from ..common.optim import AdamW as optimizer
from ..common.schedule import cosine
from ..common.train import train
from .detector import LONG, SIDE, augmentations
from .detector import detector as model

dataloader = detection(
    "toy_train", "toy_val", batch=16, short_edges=[SIDE], max_size=LONG, test_edge=SIDE
)
dataloader.train.dataset.subset = "50@seed${train.seed}+every_class"
dataloader.train.mapper.augmentations = augmentations()
dataloader.train.num_workers = 1
dataloader.train.aspect_ratio_grouping = False  # all images are square
dataloader.test.num_workers = 1
dataloader.test.batch_size = 16

# Best of 5e-4, 1e-3, 2e-3 on held-out images (docs/results.md); scratch_detector.py has its own.
optimizer.lr = 1e-3
lr_multiplier = cosine(warmup=0.05)

train.output_dir = "output/quickstart/finetune"
train.max_iter = 200
train.clip_grad_norm = 1.0
train.eval_period = 50
train.checkpointer.period = 100
train.log_period = 20
train.channels_last = True
