"""As detr_r50_300ep.py, 500 epochs, the length of the released weights.

Where the rate drops is not in the code; at four fifths is our reading.
"""

from ...common.schedule import multistep
from .detr_r50_300ep import dataloader, model, optimizer, train

lr_multiplier = multistep([400], total=500)

train.max_iter = "500 epochs"
train.output_dir = "output/finetune/detr_r50_500ep"
