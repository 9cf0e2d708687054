# A ResNet and a Faster R-CNN that two CPU cores train in minutes: half of ResNet-18's width, one
# block a stage (1.2 M parameters), 128-pixel images.
from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock

from ..common.models.dense_siam import model as dense_siam
from ..common.models.dupr import model as dupr
from ..common.models.mask_rcnn_fpn import model as faster_rcnn
from ..common.models.moco_v2 import model as moco
from ..common.models.rpn import rpn
from ..common.models.simsiam import model as simsiam

WIDTHS = (32, 64, 128, 256)  # res2 .. res5


def resnet(out_features):
    stages = [
        L(ResNet.make_stage)(
            block_class=BasicBlock,
            num_blocks=1,
            in_channels=narrow,
            out_channels=wide,
            stride_per_block=[1 if level == 0 else 2],
            norm="BN",
        )
        for level, (narrow, wide) in enumerate(zip((WIDTHS[0], *WIDTHS[:3]), WIDTHS, strict=True))
    ]
    return L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=WIDTHS[0], norm="BN"),
        stages=stages,
        out_features=out_features,
    )


moco.backbone = resnet(["res5"])
moco.queue_size = 1024  # below the 2,000 images, so that few negatives are the image itself
moco.momentum = 0.99  # 0.999 hardly moves in a few hundred steps

dupr.backbone = resnet(["res2", "res3", "res4", "res5"])
dupr.patch_sizes = [24, 12, 6, 3]  # the levels' own maps at 96 pixels
dupr.queue_size = 1024
dupr.patch_queue_size = 4096  # four keys an image: as many steps old as the image bank
dupr.momentum = 0.99

for siamese in (simsiam, dense_siam):
    siamese.backbone = resnet(["res5"])
    siamese.dim = 256  # the width of res5, and a quarter of it, as 2048 and 512 in ResNet-50
    siamese.hidden = 64
dense_siam.pixel_dim = 256
dense_siam.correspondence.grid = 3  # as many points as res5 has cells at 96 pixels
dense_siam.correspondence.points = 9
dense_siam.region_grid = 3
dense_siam.regions = 16

# Mask R-CNN FPN of the full-size recipes, smaller and without masks.
faster_rcnn.backbone.bottom_up = resnet(["res2", "res3", "res4", "res5"])
faster_rcnn.backbone.out_channels = 64
faster_rcnn.proposal_generator = rpn(
    in_features=["p3", "p4", "p5"],
    in_channels="${...backbone.out_channels}",
    sizes=[[s, s * 2**0.5] for s in (8, 20, 44)],  # objects have 4 to 77 of 128 pixels
    strides=[8, 16, 32],
    pre_nms_topk=[200, 200],
    post_nms_topk=[60, 60],
)
faster_rcnn.proposal_generator.batch_size_per_image = 64
heads = faster_rcnn.roi_heads
heads.batch_size_per_image = 32
heads.positive_fraction = 0.5
heads.box_in_features = ["p2", "p3"]
heads.box_pooler.scales = [1 / 4, 1 / 8]
heads.box_pooler.canonical_box_size = 128  # boxes under 64 pixels are read from stride 4
heads.box_pooler.sampling_ratio = 2
heads.box_head.conv_dims = [64]
heads.box_head.fc_dims = [128, 128]
heads.box_predictor.test_score_thresh = 0.02
for part in ("mask_in_features", "mask_pooler", "mask_head"):
    del heads[part]
