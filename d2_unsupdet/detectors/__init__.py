"""What is finetuned. Importing this registers our heads and architectures with Detectron2."""

from d2_unsupdet.availability import require_detectron2

require_detectron2()

from d2_unsupdet.detectors.rcnn import Res5ROIHeadsExtraNorm

__all__ = ["Res5ROIHeadsExtraNorm"]
