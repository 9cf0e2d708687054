"""DETA (arXiv:2212.06137): two-stage Deformable DETR with overlap assignment and suppression.

Each stage's assigner is an override::

    model.criterion.assigner._target_=d2_unsupdet.detectors.HungarianAssigner

The paper's baseline, one-to-one everywhere and nothing suppressed, is
finetune/coco/deta_r50_hungarian_50ep.py.
"""

from detectron2.config import LazyCall as L

from d2_unsupdet.detectors import DETA, OverlapAssigner, SpreadTokens, SuppressedPairs

from .deformable_detr_two_stage import model

model._target_ = DETA
model.encoder.levels = 5
model.encoder.ffn_dim = 2048
model.encoder.dropout = 0.0
model.proposals.num_proposals = 900
model.proposals.select = L(SpreadTokens)(candidates=1000, threshold=0.9)
model.query_source.token_content = True
model.criterion.encoder_assigner = L(OverlapAssigner)(
    positive=0.7, negative=0.3, samples=256, positive_fraction=0.5, per_object=4
)
model.criterion.assigner = L(OverlapAssigner)(
    positive=0.6, samples=None, positive_fraction=0.25, per_object=4
)
model.criterion.weights.ce = 1.0
model.postprocess = L(SuppressedPairs)(candidates=10000, threshold=0.7, detections=100)
