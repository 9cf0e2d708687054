# A two-stage Deformable DETR that two CPU cores train in minutes: the quickstart's ResNet without
# res5, strides 8 and 16, one encoder layer, three decoder layers (1.2 M parameters), 96 pixels.
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from d2_unsupdet.data import RandomPhotometric
from d2_unsupdet.data.photometric import Photometric

from ..common.models.deformable_detr_two_stage import model
from ..common.models.small_detr import small

SIDE = 96
LONG = 128  # photographs of 4:3 are not squeezed

detector = small(model, in_features=["res3", "res4"], queries=50)
detector.encoder.update(num_layers=1, levels=2)
detector.postprocess.detections = 50  # one a query


def augmentations():
    """What changes an image in pretraining and in finetuning: size, mirrors, turns, colours."""
    return [
        L(T.ResizeShortestEdge)(short_edge_length=[SIDE], sample_style="choice", max_size=LONG),
        L(T.RandomFlip)(horizontal=True),
        L(T.RandomFlip)(horizontal=False, vertical=True),
        L(T.RandomRotation)(angle=[0, 90], sample_style="choice"),
        # Fifty images have few colours: without this the detector learns them by heart.
        L(RandomPhotometric)(photometric=L(Photometric)(hue=0.5, grayscale=0.1, blur=0.0)),
    ]
