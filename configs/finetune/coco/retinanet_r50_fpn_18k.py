"""As retinanet_r50_fpn_1x.py, 18k steps, a point of DUPR's curves (arXiv:2103.04814, figure 2).

Where the rate drops is not printed; 2/3 and 8/9 are those of the 1x schedule.
"""

from ...common.schedule import multistep
from .retinanet_r50_fpn_1x import dataloader, model, optimizer, train

lr_multiplier = multistep([12000, 16000], total=18000, warmup=1000)

train.max_iter = 18000
train.output_dir = "output/finetune/retinanet_r50_fpn_18k"
