"""RetinaNet FPN on COCO 2017, as DetCo and DUPR evaluate.

train.init_checkpoint= takes the exported backbone. Each evaluation begins with 200 training batches
for batch norm's statistics; where that takes too long, train.precise_bn.enabled=false does without.
"""

from ...common.data.detection import detection
from ...common.models.retinanet import model
from ...common.optim import SGD_finetune as optimizer
from ...common.schedule import multistep
from ...common.train import train

dataloader = detection(
    "coco_2017_train",
    "coco_2017_val",
    batch=16,
    short_edges=range(640, 800 + 1, 32),
    max_size=1333,
    test_edge=800,
)

optimizer.lr = 0.01
lr_multiplier = multistep([60000, 80000], total=90000, warmup=1000)

train.max_iter = 90000
train.precise_bn.enabled = True
train.output_dir = "output/finetune/retinanet_r50_fpn_1x"
