"""JoinDet on any detector: `model = join_det(detector)`.

Where the priors come from is an override (the paper's table 5), and how they change (table 6)::

    model.priors.sources=[regions]                 # or [instances], or [predictions]: unfiltered
    train.refresh.period=0                         # fixed: the backbone's regions R_0 ...
    train.refresh.start=priors/selective_search    # ... or those of a store
    model.prior_update._target_=d2_unsupdet.priors.DirectUpdate      # or NmsUpdate
"""

from detectron2.config import LazyCall as L

from d2_unsupdet.pretext import JoinDet
from d2_unsupdet.pretext.living_priors import LivingPriors
from d2_unsupdet.priors.box_smooth import BoxSmooth
from d2_unsupdet.priors.eigen_attention import EigenAttention

from .box_pretext import class_agnostic, with_backbone


def join_det(detector, *, freeze_at=5, softmax=True):
    """`softmax=False` is the focal variant, whose foreground is the best 30 boxes above a floor."""
    return L(JoinDet)(
        detector=class_agnostic(with_backbone(detector, freeze_at), softmax=softmax),
        levels=["res3"],  # 512 channels of a ResNet-50
        embedding_weight=1.0,
        label=0,
        denoising=True,
        priors=L(LivingPriors)(
            sources=["regions", "instances"],
            attention=L(EigenAttention)(
                tau=0.2, eps=1e-5, binary=True, center=True, quantile=None, least_gap=0.0
            ),
            stride=16,
            least_cells=1,
            connectivity=4,
            region_score=1.0,
            overlap=0.5,
            candidates=30,
            floor=0.0,
        ),
        prior_update=L(BoxSmooth)(momentum=0.45, iou=0.55, most=30, decay=1.0),
    )
