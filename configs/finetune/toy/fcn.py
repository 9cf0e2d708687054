"""A small dilated FCN on the embedded label maps: the eight shapes and the ground.

The quickstart's ResNet with res4 and res5 at stride 8, since most shapes are smaller than two cells
of 16 pixels. train.init_checkpoint= takes the backbones of configs/quickstart.
"""

from detectron2.config import LazyCall as L

from d2_unsupdet.detectors.fcn import dilate

from ...common.data.semantic import semantic
from ...common.models.dilated_fcn import model
from ...common.optim import AdamW as optimizer
from ...common.schedule import cosine
from ...common.train import train
from ...quickstart.models import WIDTHS, resnet

# The level with the least noise, as the unsupervised segmentation's toy recipe has it. Whole
# images: at half their scale many shapes are smaller than a cell.
dataloader = semantic(
    "toy_sem_seg_train:level=easy",
    "toy_sem_seg_val:level=easy",
    batch=8,
    crop=128,
    scale=(1.0, 1.0),
)
dataloader.train.num_workers = 1
dataloader.test.num_workers = 1
dataloader.test.batch_size = 16

model.backbone = resnet(["res5"])
model.backbone.stages = L(dilate)(stages=model.backbone.stages, last=2)
head = model.sem_seg_head
head.in_channels = WIDTHS[-1]
head.norm = "BN"
head.stride = 8
head.channels = 64
head.dilation = 2

optimizer.lr = 2e-3  # 4e-3 and 5e-3 looked no faster: docs/methods/fcn.md
lr_multiplier = cosine(warmup=0.05)

train.max_iter = "16 epochs"
train.best_metric = "sem_seg/mIoU"
train.eval_period = "4 epochs"
train.checkpointer.period = "4 epochs"
train.channels_last = True
train.output_dir = "output/finetune/toy_fcn"
