"""A small dilated FCN on the embedded label maps: the eight shapes and the ground.

The quickstart's ResNet up to res4, which keeps stride 8: scenes of 64 pixels show most shapes on
two cells of 8 pixels and more, and cost a third of a step of 128. train.init_checkpoint= takes the
backbones of configs/quickstart, but for their res5.
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
    "toy_sem_seg_train:level=easy:size=64",
    "toy_sem_seg_val:level=easy:size=64",
    batch=8,
    crop=64,
    scale=(1.0, 1.0),
)
dataloader.train.num_workers = 1
dataloader.test.num_workers = 1
dataloader.test.batch_size = 16

model.backbone = resnet(["res4"])
model.backbone.stages = L(dilate)(stages=model.backbone.stages[:3], last=1)
head = model.sem_seg_head
head.in_feature = "res4"
head.in_channels = WIDTHS[2]
head.norm = "BN"
head.stride = 8
head.channels = 64
head.dilation = 1  # more looks past the shapes
# Four of five pixels are ground; counted alike they cost steps: docs/methods/fcn.md
head.class_weights = [0.2]

optimizer.lr = 4e-3
lr_multiplier = cosine(warmup=0.05)

train.max_iter = "16 epochs"
train.init.min_coverage = 0.2  # of a whole backbone's weights three quarters are res5's
train.best_metric = "sem_seg/mIoU"
train.eval_period = "4 epochs"
train.checkpointer.period = "4 epochs"
train.channels_last = True
train.output_dir = "output/finetune/toy_fcn"
