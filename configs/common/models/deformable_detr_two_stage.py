"""Deformable DETR with refinement and two stages: the encoder's best tokens become the queries."""

from detectron2.config import LazyCall as L

from d2_unsupdet.detectors import ProposalQueries, Proposals, TopTokens

from .deformable_detr_refine import model

model.proposals = L(Proposals)(
    num_proposals=300,
    dim="${..encoder.dim}",
    score_channels=1,  # the original has as many as classes and trains all but the first to 0
    anchor_size=0.05,
    anchor_growth=2.0,
    select=L(TopTokens)(),
)
model.query_source = L(ProposalQueries)(dim="${..encoder.dim}", token_content=False)
model.heads.size_bias = 0.0
