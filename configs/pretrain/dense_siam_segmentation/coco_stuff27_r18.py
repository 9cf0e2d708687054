"""DenseSiam's unsupervised segmentation of COCO-Stuff-27, as its official code trains it: batch
256, 10 epochs at a fixed rate. The paper starts from a ResNet-18 with ImageNet labels:
train.init_checkpoint=resnet18.pth (torchvision's, or one of this package's backbones).
"""

from ...common.data.replayed_views import dataloader
from ...common.models.dense_siam_segmentor import model
from ...common.optim import SGD as optimizer
from ...common.schedule import constant
from ...common.train import train

optimizer.lr = 0.05  # 0.05 * 256 / 256
lr_multiplier = constant()

train.max_iter = "10 epochs"
train.eval_period = "1 epochs"
train.best_metric = "sem_seg/mIoU"
train.sync_bn = True
train.checkpointer.period = "1 epochs"
train.output_dir = "output/pretrain/dense_siam_segmentation_coco_stuff27_r18"
