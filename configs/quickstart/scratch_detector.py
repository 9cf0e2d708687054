# The small Deformable DETR on 50 labelled embedded images from random weights, at its own rate.
from .finetune_detector import dataloader, lr_multiplier, model, optimizer, train

optimizer.lr = 2e-3

train.output_dir = "output/quickstart/scratch"
