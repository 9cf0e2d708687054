"""Each edit of Detectron2 v0.6, tested by what it repairs.

The behaviour is checked on whatever Detectron2 is installed (a compiled main has the same repairs);
the text of the edits and the missing operators only on the pure Python wheel.
"""

import builtins
import importlib
import json
import warnings
from importlib import metadata, util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances, PolygonMasks
from PIL import Image

from d2_unsupdet.detectron2_edits import EDITS
from d2_unsupdet.install_detectron2 import MARKER

ROOT = Path(util.find_spec("detectron2").origin).parents[1]
SQUARE = np.array([1.0, 1, 7, 1, 7, 7, 1, 7])


def is_our_wheel() -> bool:
    try:
        return metadata.distribution("detectron2").read_text(MARKER) is not None
    except metadata.PackageNotFoundError:
        return False


only_pure_wheel = pytest.mark.skipif(
    not is_our_wheel(), reason="the installed Detectron2 is not the pure Python wheel"
)


@pytest.fixture
def dataset():
    """Registers records under a name for one test, with metadata."""
    names = []

    def register(name, records, **meta):
        DatasetCatalog.register(name, lambda: records)
        names.append(name)
        return MetadataCatalog.get(name).set(**meta)

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


class NumPy124:
    """NumPy without the names that 1.24 removed (NumPy 2 has another `bool` again)."""

    def __getattr__(self, name):
        if name in ("bool", "int", "float", "str"):
            raise AttributeError(name)
        return getattr(np, name)


@pytest.fixture
def numpy_1_24(monkeypatch):
    """Detectron2's edited modules see the NumPy that is hardest on them."""
    for edit in EDITS:
        if "NumPy" in edit.why:
            module = importlib.import_module(edit.file.removesuffix(".py").replace("/", "."))
            monkeypatch.setattr(module, "np", NumPy124())


@only_pure_wheel
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: f"{edit.file}:{edit.why[:30]}")
def test_edit_is_in_the_installed_files(edit):
    text = (ROOT / edit.file).read_text()
    assert edit.new in text
    assert edit.old is None or edit.old in edit.new or edit.old not in text


def test_extent_transform_has_its_default_interpolation():
    from detectron2.data.transforms import ExtentTransform

    image = np.tile(np.arange(8, dtype=np.uint8) * 30, (8, 1))
    half = ExtentTransform((0, 0, 8, 8), (4, 4)).apply_image(image)
    assert half.shape == (4, 4)
    assert (np.diff(half[0].astype(int)) > 0).all()


def test_polygon_masks(numpy_1_24):
    masks = PolygonMasks([[SQUARE], []])
    assert masks.nonempty().tolist() == [True, False]
    bitmask = masks.crop_and_resize(torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 8]]), 8)
    assert bitmask.dtype == torch.bool
    assert bitmask[0].sum() == 36 and bitmask[1].sum() == 0


def test_class_histogram(numpy_1_24):
    from detectron2.data.build import print_instances_class_histogram

    annotations = [{"category_id": 0}, {"category_id": 1}, {"category_id": 1, "iscrowd": 1}]
    print_instances_class_histogram([{"annotations": annotations}], ["cat", "dog"])


VOC_XML = """<annotation><size><width>20</width><height>20</height></size>
<object><name>cat</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult>
<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>10</xmax><ymax>10</ymax></bndbox></object></annotation>"""


def test_voc_is_read_and_evaluated(tmp_path, dataset, numpy_1_24):
    from detectron2.data.datasets.pascal_voc import load_voc_instances
    from detectron2.evaluation import PascalVOCDetectionEvaluator

    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("000001", "000002"):
        (tmp_path / f"Annotations/{name}.xml").write_text(VOC_XML)
    (tmp_path / "ImageSets/Main/test.txt").write_text("000001\n000002\n")
    records = load_voc_instances(str(tmp_path), "test", ["cat"])
    assert [record["image_id"] for record in records] == ["000001", "000002"]

    name = "edits_voc"
    dataset(name, records, thing_classes=["cat"], dirname=str(tmp_path), split="test", year=2012)
    evaluator = PascalVOCDetectionEvaluator(name)
    evaluator.reset()
    for record in records:
        found = Instances((20, 20), scores=torch.tensor([0.9]), pred_classes=torch.tensor([0]))
        found.pred_boxes = Boxes(torch.tensor([[1.0, 1, 10, 10]]))
        evaluator.process([record], [{"instances": found}])
    assert evaluator.evaluate()["bbox"]["AP50"] == pytest.approx(100)


def test_semantic_segmentation_scores(tmp_path, dataset, numpy_1_24):
    from detectron2.evaluation import SemSegEvaluator

    truth = np.zeros((8, 8), dtype=np.uint8)
    truth[4:] = 1
    Image.fromarray(truth).save(tmp_path / "truth.png")
    record = {"file_name": "image", "sem_seg_file_name": str(tmp_path / "truth.png")}
    dataset("edits_sem_seg", [record], stuff_classes=["a", "b"], ignore_label=255)
    evaluator = SemSegEvaluator("edits_sem_seg", distributed=False)
    evaluator.reset()
    logits = torch.nn.functional.one_hot(torch.from_numpy(truth).long()).permute(2, 0, 1)
    evaluator.process([record], [{"sem_seg": logits.float()}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100


def test_visualizers(numpy_1_24):
    from detectron2.utils.video_visualizer import VideoVisualizer
    from detectron2.utils.visualizer import Visualizer

    meta = SimpleNamespace(
        thing_classes=["cat"], stuff_classes=["sky"], stuff_colors=[(9, 9, 9)], get=lambda *_: None
    )
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    panoptic = torch.zeros(32, 32, dtype=torch.int32)  # 0 has no segment: it stays empty
    panoptic[:8], panoptic[20:] = 1, 2
    segments = [
        {"id": 1, "category_id": 0, "isthing": True},
        {"id": 2, "category_id": 0, "isthing": False},
    ]
    drawn = Visualizer(image, meta).draw_panoptic_seg(panoptic, segments).get_image()
    assert drawn.shape == image.shape and drawn.any()

    video = VideoVisualizer(meta)
    found = Instances((32, 32), pred_boxes=Boxes(torch.tensor([[4.0, 4, 20, 20]])))
    found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([0])
    colors = [
        tuple(video.draw_instance_predictions(image, found).get_image()[4, 10]) for _ in range(2)
    ]
    assert colors[0] == colors[1]  # the same object keeps its colour


def test_map_dataset_falls_back_on_another_sample():
    from detectron2.data import MapDataset

    mapped = MapDataset([1, 2, 3], lambda value: None if value == 1 else value)
    assert mapped[0] in (2, 3)


def test_model_zoo_without_pkg_resources(monkeypatch):
    import detectron2.model_zoo.model_zoo as zoo

    real = builtins.__import__

    def forbid(name, *args, **kwargs):
        assert name != "pkg_resources"
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", forbid)
    exec(compile(Path(zoo.__file__).read_text(), zoo.__file__, "exec"), {"__name__": "zoo_again"})
    assert zoo.get_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml").MODEL.RETINANET
    assert zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py").model


def detectron2_schedule(optimizer):
    from detectron2.solver import LRMultiplier
    from fvcore.common.param_scheduler import LinearParamScheduler

    return LRMultiplier(optimizer, LinearParamScheduler(1, 0), max_iter=10)


def torch_schedule(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 10)


def build_trainer(folder: Path, build_schedule):
    """A trainer with Detectron2's own schedule hook, and its checkpointer."""
    from detectron2.engine import SimpleTrainer
    from detectron2.engine.hooks import LRScheduler

    class Model(torch.nn.Linear):
        def forward(self, data):
            return {"loss": super().forward(data).sum()}

    model = Model(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    schedule = build_schedule(optimizer)
    loader = torch.utils.data.DataLoader([torch.ones(2)] * 100)
    trainer = SimpleTrainer(model, loader, optimizer)
    trainer.register_hooks([LRScheduler(optimizer, schedule)])
    return trainer, DetectionCheckpointer(model, str(folder), trainer=trainer), optimizer, schedule


@pytest.mark.parametrize("build_schedule", [detectron2_schedule, torch_schedule])
def test_the_schedule_is_saved_and_resumed(tmp_path, build_schedule):
    trainer, checkpointer, optimizer, schedule = build_trainer(tmp_path, build_schedule)
    trainer.train(0, 4)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.6)
    checkpointer.save("model", iteration=3)

    _, resumed, optimizer, schedule_again = build_trainer(tmp_path, build_schedule)
    resumed.resume_or_load("", resume=True)
    assert schedule_again.last_epoch == schedule.last_epoch == 4
    optimizer.step()
    schedule_again.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5)


def test_anchors_are_made_without_a_warning():
    from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

    generator = DefaultAnchorGenerator(sizes=[[8]], aspect_ratios=[[1.0]], strides=[4])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (anchors,) = generator([torch.zeros(1, 1, 2, 3)])
    centers = anchors.get_centers()
    assert centers.tolist() == [[x, y] for y in (2, 6) for x in (2, 6, 10)]


def test_export_needs_no_caffe2():
    from detectron2 import export
    from detectron2.modeling.backbone import BasicStem

    assert export.TracingAdapter and export.scripting_with_instances
    adapter = export.TracingAdapter(BasicStem(), torch.zeros(1, 3, 8, 8))
    assert adapter(torch.zeros(1, 3, 8, 8))[0].shape == (1, 64, 2, 2)


@only_pure_wheel
def test_compiled_operators_say_that_they_are_missing():
    from detectron2.layers import ROIAlignRotated, nms_rotated
    from detectron2.structures import RotatedBoxes, pairwise_iou_rotated

    boxes = torch.tensor([[4.0, 4, 4, 4, 0]])
    rois = torch.cat([torch.zeros(1, 1), boxes], dim=1)
    calls = {
        "box_iou_rotated": lambda: pairwise_iou_rotated(RotatedBoxes(boxes), RotatedBoxes(boxes)),
        "nms_rotated": lambda: nms_rotated(boxes, torch.ones(1), 0.5),
        "roi_align_rotated_forward": lambda: ROIAlignRotated((2, 2), 1.0, 0)(
            torch.zeros(1, 1, 8, 8), rois
        ),
    }
    for name, call in calls.items():
        with pytest.raises(NotImplementedError, match=f"'{name}' is compiled code"):
            call()


def test_deformable_convolution_on_cpu_is_that_of_torchvision():
    from detectron2.layers import DeformConv
    from torchvision.ops import deform_conv2d

    torch.manual_seed(0)
    layer = DeformConv(3, 4, kernel_size=3, padding=1)
    image, offset = torch.rand(1, 3, 6, 6), torch.rand(1, 18, 6, 6)
    expected = deform_conv2d(image, offset, layer.weight, padding=1)
    torch.testing.assert_close(layer(image, offset), expected)


def test_coco_scores_with_default_arguments(tmp_path, dataset):
    from detectron2.evaluation import COCOEvaluator

    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 8, 8], "area": 64, "iscrowd": 0}
    truth = {
        "info": {},
        "images": [{"id": 1, "height": 20, "width": 20, "file_name": "x.jpg"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [box],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    dataset(
        "edits_coco", [], json_file=str(tmp_path / "truth.json"), thing_classes=["cat"],
        thing_dataset_id_to_contiguous_id={1: 0},
    )  # fmt: skip
    evaluator = COCOEvaluator("edits_coco", tasks=("bbox",), distributed=False)
    evaluator.reset()
    found = Instances((20, 20), scores=torch.tensor([0.9]), pred_classes=torch.tensor([0]))
    found.pred_boxes = Boxes(torch.tensor([[2.0, 2, 10, 10]]))
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def test_environment_report():
    from detectron2.utils.collect_env import collect_env_info

    report = collect_env_info()
    assert torch.__version__ in report
    if is_our_wheel():
        assert "not built (pure Python wheel)" in report
