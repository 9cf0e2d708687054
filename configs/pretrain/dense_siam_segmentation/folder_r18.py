"""The same on some thousand images of your own, with label maps or without:

dataloader.train.dataset.names=folder:/path/to/images
dataloader.test.dataset.names=sem_seg:/path/to/labels@/path/to/images

dataloader.test=null dataloader.evaluator=null model.num_classes=<clusters>
"""

from .coco_stuff27_r18 import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "toy_unlabeled"
dataloader.train.mapper.size = 224
dataloader.train.mapper.resize = 448
dataloader.train.total_batch_size = 64
dataloader.test.dataset.names = "toy_sem_seg_val"

optimizer.lr = 0.0125  # 0.05 * 64 / 256

train.max_iter = "20 epochs"
train.output_dir = "output/pretrain/dense_siam_segmentation_folder_r18"
