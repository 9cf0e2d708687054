"""An exported detector answers as the detector does, padded or not, or there is no file."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import batched_nms

from d2_unsupdet.detectors.suppression import grouped_nms
from d2_unsupdet.errors import UserError
from d2_unsupdet.sharing import onnx_file
from d2_unsupdet.sharing.onnx_compare import Found, compare
from d2_unsupdet.sharing.onnx_detectors import on_canvas
from d2_unsupdet.sharing.onnx_file import export_onnx, fit, own_answer
from tests.detectors.tiny import NAMES, tiny_detr
from tests.scripts import load_script
from tests.sharing.runs import ROOT, finetuned
from tests.sharing.small_rcnn import NAMES as RCNNS
from tests.sharing.small_rcnn import small_rcnn

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CANVAS = (64, 96)


def pictures() -> list[np.ndarray]:
    """Wide, high, and of the canvas' own shape; noise, so that every place matters."""
    random = np.random.default_rng(0)
    shapes = [(50, 100), (80, 40), CANVAS, (33, 33)]
    return [random.integers(0, 255, (*shape, 3), dtype=np.uint8) for shape in shapes]


def run_file(path, picture, **options):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    image, size = fit(picture, CANVAS, **options)
    return session.run(None, {"image": image, "size": np.array(size)})


def test_an_exported_detr(tmp_path):
    path = tmp_path / "detr.onnx"
    about = {"classes": json.dumps(["cat", "dog"])}
    model = tiny_detr("detr").eval()
    done = export_onnx(model, path, canvas=CANVAS, pictures=pictures(), about=about)
    assert done.path == path and done.size == path.stat().st_size
    assert [one.matched for one in done.differences] == [12] * 4
    assert max(one.box for one in done.differences) < 1e-5
    boxes, scores, labels = run_file(path, pictures()[0])
    assert boxes.shape == (12, 4) and scores.shape == labels.shape == (12,)
    # what stands beyond the picture is padding, whatever its values
    image, size = fit(pictures()[0], CANVAS)
    image[:, size[0] :] = 255
    session = onnxruntime.InferenceSession(str(path))
    again = session.run(None, {"image": image, "size": np.array(size)})
    assert np.array_equal(again[0], boxes)
    props = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert json.loads(props["classes"]) == ["cat", "dog"] and json.loads(props["canvas"]) == [
        64,
        96,
    ]
    assert props["input_format"] == "RGB"
    content = path.read_bytes()  # no paths of this machine
    assert b"/d2_unsupdet/" not in content and b"site-packages" not in content


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "detr"])
def test_every_detector_of_the_family(name, tmp_path):
    model = tiny_detr(name).eval()
    done = export_onnx(model, tmp_path / "x.onnx", canvas=CANVAS, pictures=pictures())
    assert all(one.fine and one.matched >= 10 for one in done.differences)
    assert max(one.box for one in done.differences) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", RCNNS)
def test_detectrons_own_detectors(name, tmp_path):
    model = small_rcnn(name)
    done = export_onnx(model, tmp_path / "x.onnx", canvas=CANVAS, pictures=pictures())
    assert all(one.fine for one in done.differences)
    assert sum(one.matched for one in done.differences) > 20
    assert max(one.box for one in done.differences) < 1e-4


@pytest.mark.parametrize("name", ["mask_rcnn_fpn", "retinanet"])
def test_parts_without_choices_answer_as_the_detector(name):
    """Before any export: boxes that Detectron2 drops early are dropped late here."""
    model = small_rcnn(name)
    if name == "mask_rcnn_fpn":
        model.roi_heads.mask_on = False  # masks are no part of the graph, and most of the time
    wrapped = on_canvas(model)
    for picture in pictures():
        image, size = fit(picture, CANVAS)
        with torch.no_grad():
            answer = wrapped(torch.from_numpy(image), torch.tensor(size))
        mine, own = Found(*(part.numpy() for part in answer)), own_answer(model, image, size)
        seen = compare(own, mine, size)
        assert seen.fine and seen.matched >= 15


def test_heads_that_nobody_knows():
    model = small_rcnn("mask_rcnn_fpn")
    model.roi_heads = nn.Identity()
    with pytest.raises(UserError, match="Identity cannot be exported to ONNX"):
        on_canvas(model)


def test_a_graph_that_answers_differently_is_not_written(tmp_path, monkeypatch):
    """The comparison is with the detector itself: a wrong detector must not pass."""
    path, own = tmp_path / "detr.onnx", onnx_file.own_answer

    def moved(*args):
        answer = own(*args)
        return replace(answer, boxes=answer.boxes + 2)

    class Session:
        """Answers as the detector does."""

        def __init__(self, *args, **kwargs):
            pass

        def run(self, names, feed):
            found = own(model, feed["image"], tuple(feed["size"].tolist()))
            return [found.boxes, found.scores, found.labels]

    model = tiny_detr("detr").eval()
    monkeypatch.setattr(onnx_file, "_serialised", lambda *args: b"graph")
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    export_onnx(model, path, canvas=CANVAS, pictures=pictures())
    assert path.read_bytes() == b"graph"
    monkeypatch.setattr(onnx_file, "own_answer", moved)
    with pytest.raises(UserError, match="answers picture 0 differently: .* nothing was written"):
        export_onnx(model, tmp_path / "other.onnx", canvas=CANVAS, pictures=pictures())
    assert [p.name for p in tmp_path.iterdir()] == ["detr.onnx"]


def test_what_cannot_be_exported_is_a_sentence(tmp_path, monkeypatch):
    model, options = tiny_detr("detr").eval(), {"canvas": CANVAS, "pictures": pictures()}
    with pytest.raises(UserError, match="suffix must be .onnx"):
        export_onnx(model, tmp_path / "x.pt", **options)
    with pytest.raises(UserError, match="no folder .*missing"):
        export_onnx(model, tmp_path / "missing/x.onnx", **options)
    with pytest.raises(UserError, match="16x96 does not fit DETR"):
        export_onnx(model, tmp_path / "x.onnx", canvas=(16, 96), pictures=pictures())
    with pytest.raises(UserError, match="give pictures"):
        export_onnx(model, tmp_path / "x.onnx", canvas=CANVAS, pictures=[])
    with pytest.raises(UserError, match="Linear cannot be exported"):
        export_onnx(nn.Linear(2, 2), tmp_path / "x.onnx", **options)
    monkeypatch.setattr(onnx_file, "is_installed", lambda name: name != "onnxscript")
    with pytest.raises(UserError, match="pip install onnx onnxscript onnxruntime"):
        export_onnx(model, tmp_path / "x.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_a_picture_on_the_canvas():
    picture = np.zeros((10, 40, 3), dtype=np.uint8)
    picture[..., 0] = 200
    image, size = fit(picture, CANVAS)
    assert size == (24, 96) and image.shape == (3, 64, 96)
    assert (image[0, :24] == 200).all() and not image[0, 24:].any() and not image[1:].any()
    assert (fit(picture, CANVAS, bgr=True)[0][2, :24] == 200).all()


def test_suppression_is_torchvisions():
    random = torch.Generator().manual_seed(0)
    corner = torch.rand(300, 2, generator=random)
    boxes = torch.cat([corner, corner + 0.3], dim=1)
    scores = torch.rand(300, generator=random)
    groups = torch.randint(4, (300,), generator=random)
    kept = grouped_nms(boxes, scores, groups, 0.5)
    assert torch.equal(kept, batched_nms(boxes, scores, groups, 0.5)) and 4 < len(kept) < 300


@pytest.mark.slow
def test_the_tool_and_the_snippet_of_the_docs(tmp_path, capsys, monkeypatch):
    tool = load_script("tools/export_onnx.py")
    run = finetuned(tmp_path / "run", name="detr")
    monkeypatch.chdir(tmp_path)
    tool.main([str(run), "detector.onnx", "--limit", "2"])
    said = capsys.readouterr().out
    assert "detections of 2 pictures agree" in said and "DETR for 128x128" in said

    from PIL import Image

    Image.fromarray(pictures()[0]).save(tmp_path / "photo.jpg")
    section = (ROOT / "docs/weights.md").read_text().split("## ONNX")[1]
    (snippet,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    names: dict = {}
    exec(snippet, names)
    image, size = fit(np.asarray(Image.open(tmp_path / "photo.jpg")), (128, 128))
    assert tuple(names["size"]) == size and np.array_equal(names["image"], image)
    assert names["boxes"].shape == (50, 4) and names["names"][0] == "circle"
    assert names["boxes"].max() <= 100 * 1.01  # in pixels of the photo
