"""The same on Cityscapes with PiCIE's 27 classes: the middle squares of the frames without fine
labels (test and train_extra). DenseSiam has no numbers there; the optimisation is COCO-Stuff's."""

from .coco_stuff27_r18 import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "cityscapes27_train"
dataloader.test.dataset.names = "cityscapes27_val"

train.output_dir = "output/pretrain/dense_siam_segmentation_cityscapes27_r18"
