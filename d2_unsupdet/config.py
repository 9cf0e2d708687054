"""Keys that our architectures add to Detectron2's YAML configuration."""

from d2_unsupdet.availability import require_detectron2

require_detectron2()

from detectron2.config import CfgNode


def add_unsupdet_config(cfg: CfgNode) -> None:
    """Add this package's keys with their defaults; call it on `get_cfg()` before merging a file."""
    # MoCo v2 (arXiv:2003.04297); the backbone needs FREEZE_AT 0, NORM "BN", OUT_FEATURES ["res5"].
    cfg.MODEL.MOCO = CfgNode()
    cfg.MODEL.MOCO.DIM = 128
    cfg.MODEL.MOCO.QUEUE_SIZE = 65536
    cfg.MODEL.MOCO.MOMENTUM = 0.999
    cfg.MODEL.MOCO.TEMPERATURE = 0.2
    cfg.MODEL.MOCO.SHUFFLE_BN = True

    # DUPR (arXiv:2103.04814); as above, with OUT_FEATURES ["res2", "res3", "res4", "res5"].
    cfg.MODEL.DUPR = CfgNode()
    cfg.MODEL.DUPR.LEVELS = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.DUPR.IMAGE_WEIGHTS = [0.1, 0.4, 0.7, 1.0]
    cfg.MODEL.DUPR.PATCH_WEIGHTS = [0.0, 0.0, 1.0, 1.0]
    cfg.MODEL.DUPR.PATCH_SIZES = [56, 28, 14, 7]
    cfg.MODEL.DUPR.PATCH_REDUCTION = "mean"  # or "sum", as the paper's formula reads
    cfg.MODEL.DUPR.PATCH_CHUNK = 512  # rows of patch logits in memory at a time
    cfg.MODEL.DUPR.PATCH_KEYS = 4  # an image, into each patch bank
    cfg.MODEL.DUPR.DIM = 128
    cfg.MODEL.DUPR.QUEUE_SIZE = 65536
    cfg.MODEL.DUPR.PATCH_QUEUE_SIZE = 65536
    cfg.MODEL.DUPR.TEMPERATURE = 0.2
    cfg.MODEL.DUPR.MOMENTUM = 0.999
    cfg.MODEL.DUPR.SHUFFLE_BN = True

    # SimSiam (arXiv:2011.10566); OUT_FEATURES ["res5"].
    cfg.MODEL.SIMSIAM = CfgNode()
    cfg.MODEL.SIMSIAM.DIM = 2048
    cfg.MODEL.SIMSIAM.HIDDEN = 512
    cfg.MODEL.SIMSIAM.SIMILARITY = "cosine"  # or "cross_entropy"

    # DenseSiam (arXiv:2203.11075); OUT_FEATURES ["res5"].
    cfg.MODEL.DENSE_SIAM = CfgNode()
    cfg.MODEL.DENSE_SIAM.IMAGE_WEIGHT = 1.0
    cfg.MODEL.DENSE_SIAM.PIXEL_WEIGHT = 1.0
    cfg.MODEL.DENSE_SIAM.REGION_WEIGHT = 0.1
    cfg.MODEL.DENSE_SIAM.IMAGE_SIMILARITY = "cosine"
    cfg.MODEL.DENSE_SIAM.PIXEL_SIMILARITY = "cross_entropy"
    cfg.MODEL.DENSE_SIAM.CORRESPONDENCE = "location"  # or "feature", "distance", "region"
    cfg.MODEL.DENSE_SIAM.DIM = 2048
    cfg.MODEL.DENSE_SIAM.PIXEL_DIM = 2048  # channels, which are the pseudo-categories
    cfg.MODEL.DENSE_SIAM.HIDDEN = 512
    cfg.MODEL.DENSE_SIAM.REGION_START = 0.8  # share of the run
    cfg.MODEL.DENSE_SIAM.REGION_TEMPERATURE = 0.1
    cfg.MODEL.DENSE_SIAM.REGIONS = 64  # an image; 0 takes all

    # The DETR family (META_ARCHITECTURE DETR, ConditionalDETR, DeformableDETR, DABDeformableDETR,
    # DNDABDeformableDETR, DETA). None takes the architecture's own value, which stands with all
    # others in detectors/yaml_settings.py; a key that an architecture does not read is refused.
    # Of Detectron2's keys RESNETS.*, PIXEL_*, INPUT.FORMAT and TEST.DETECTIONS_PER_IMAGE count too.
    cfg.MODEL.DETR = CfgNode()
    cfg.MODEL.DETR.NUM_CLASSES = 80
    cfg.MODEL.DETR.MASK_PADDING = False  # BACKBONE.NAME "build_detr_resnet_backbone" only
    cfg.MODEL.DETR.SIZE_DIVISIBILITY = 0  # of padded batches; 0 is what the backbone needs
    cfg.MODEL.DETR.DEEP_SUPERVISION = True  # losses on every decoder layer
    for key in (
        *("IN_FEATURES", "HIDDEN_DIM", "NHEADS", "ENC_LAYERS", "DEC_LAYERS", "DIM_FEEDFORWARD"),
        *("DROPOUT", "PRE_NORM", "POSITION_EMBEDDING", "NUM_OBJECT_QUERIES"),
        *("CLASS_WEIGHT", "L1_WEIGHT", "GIOU_WEIGHT", "NO_OBJECT_WEIGHT"),
        *("CLASS_COST", "L1_COST", "GIOU_COST"),
        *("LEVELS", "POINTS", "REFINE", "TWO_STAGE", "IGNORE_PADDING", "SCORE_CHANNELS"),
        *("ANCHOR_SIZE", "ANCHOR_GROWTH", "PADDED_POSITION"),
        *("DN_GROUPS", "DN_LABEL_NOISE", "DN_BOX_NOISE"),
        # DETA; ENC_* is the encoder stage, its IOU_THRESHOLDS background's and objects'
        *("ASSIGNER", "IOU_THRESHOLD", "POSITIVE_FRACTION", "QUERIES_PER_OBJECT", "BALANCE"),
        *("UNIQUE", "ZERO_OVERLAP"),
        *("ENC_ASSIGNER", "ENC_IOU_THRESHOLDS", "ENC_POSITIVE_FRACTION", "ENC_BATCH_SIZE"),
        *("PROPOSAL_TOPK", "PROPOSAL_NMS_THRESH", "TOPK_CANDIDATES_TEST", "NMS_THRESH_TEST"),
    ):
        cfg.MODEL.DETR[key] = None

    # Pretexts of whole detectors (META_ARCHITECTURE UPDETR, DETReg, SiameseDETR). MODEL.DETR is the
    # detector; its class count, weight and cost are the pretext's. None takes the method's own
    # value; a key that a method does not read is refused.
    cfg.MODEL.BOX_PRETEXT = CfgNode()
    cfg.MODEL.BOX_PRETEXT.DETECTOR = "DETR"  # any architecture of the family
    for key in (
        *("LEVELS", "DENOISING", "MATCH_WITHIN_GROUP", "QUERY_DROPOUT", "FEATURE_WEIGHT"),
        *("GLOBAL_WEIGHT", "JITTER", "ALIGNED", "IGNORE_PADDING", "EMBEDDING_WEIGHT"),
    ):
        cfg.MODEL.BOX_PRETEXT[key] = None
    cfg.INPUT.PRIORS = CfgNode()
    cfg.INPUT.PRIORS.STORE = ""  # folder of stored boxes; without one they are random
    cfg.INPUT.PRIORS.COUNT = 10  # of an image; the original of DETReg has 30

    # The engine's additions to Detectron2's sections.
    cfg.SOLVER.OPTIMIZER = "SGD"  # or "AdamW"
    cfg.SOLVER.LR_FACTORS = []  # [pattern of parameter names, factor on BASE_LR]; the first counts
    cfg.INPUT.CROP.PROB = 1.0  # share of the images that are cropped
    cfg.INPUT.CROP.SCALES = ()  # of the image before a dilated FCN's crop, least and greatest
    cfg.INPUT.CROP.SHORT_EDGES = ()  # a crop is taken after a resize to one of these lengths
