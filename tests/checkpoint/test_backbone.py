"""Features of any checkpoint equal those of the network that wrote it."""

from pathlib import Path

import pytest
import torch
import torchvision

from d2_unsupdet.checkpoint import export_weights, write_weights
from d2_unsupdet.checkpoint.backbone import (
    CAFFE,
    RESNET50,
    FrozenResNet,
    Input,
    bare_state,
    first_architecture,
    infer_architecture,
    load_resnet,
    name_checkpoints,
    resnet_of,
)
from d2_unsupdet.engine.config import load_config, to_plain
from d2_unsupdet.engine.run import prepare, train
from d2_unsupdet.errors import UserError
from tests.checkpoint.detectors import detector
from tests.checkpoint.layouts import LAYOUTS, torchvision_net
from tests.pretext.tiny import tiny_moco

ROOT = Path(__file__).resolve().parents[2]
IMAGES = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()


def normalised(images, input=None):
    input = input or Input()
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (input.mean, input.std))
    return (images - mean) / std


def torchvision_features(depth):
    net = torchvision_net(depth)
    with torch.no_grad():
        x = net.maxpool(net.relu(net.bn1(net.conv1(normalised(IMAGES)))))
        result = {"stem": x}
        for i in range(1, 5):
            result[f"res{i + 1}"] = x = getattr(net, f"layer{i}")(x)
    return result


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_of_other_projects_give_torchvisions_features(layout, depth, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": LAYOUTS[layout](depth)}, path)
    net = load_resnet(path)
    features, expected = net(IMAGES), torchvision_features(depth)
    assert list(features) == ["stem", "res2", "res3", "res4", "res5"]
    for level, feature in features.items():
        torch.testing.assert_close(feature, expected[level])
        assert feature.shape[1] == net.channels[level]
        assert feature.shape[-1] == 64 // net.strides[level]


def test_resnext_groups_are_seen():
    net = torchvision.models.resnext50_32x4d()
    architecture = infer_architecture("it", bare_state("it", net.state_dict()))
    assert [(s.blocks, s.groups) for s in architecture.stages] == [(b, 32) for b in (3, 4, 6, 3)]


@pytest.mark.parametrize("kind, depth", [("fpn", 18), ("c4", 50)])
def test_the_resnet_of_a_detector(kind, depth, tmp_path):
    model = detector(kind, depth=depth)
    path = tmp_path / "detector.pth"
    torch.save({"model": model.state_dict()}, path)
    net = load_resnet(path)
    bottom = model.backbone.bottom_up if kind == "fpn" else model.backbone
    with torch.no_grad():
        expected = bottom.eval()(normalised(IMAGES))
    torch.testing.assert_close(net(IMAGES)["res4"], expected["res4"])
    if kind == "c4":
        with torch.no_grad():
            assert net(IMAGES)["res5"].equal(model.roi_heads.res5.eval()(net(IMAGES)["res4"]))


def test_a_file_of_the_zoo_and_a_live_detector_keep_their_input(tmp_path):
    model = detector("c4", depth=50)
    for block in [m for m in model.modules() if hasattr(m, "conv3")]:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    live = resnet_of(model.eval())  # Detectron2's defaults are Caffe's: BGR, 1 as std
    assert live.input.bgr and live.input.mean == pytest.approx(CAFFE.mean)
    assert live.input.std == CAFFE.std
    with torch.no_grad():
        expected = model.backbone(normalised(IMAGES.flip(1), CAFFE))["res4"]
    torch.testing.assert_close(live(IMAGES)["res4"], expected)
    path = tmp_path / "zoo.pth"
    torch.save({"model": model.state_dict(), "__author__": "Detectron2 Model Zoo"}, path)
    torch.testing.assert_close(load_resnet(path)(IMAGES)["res4"], expected)


def test_a_run_of_the_quickstart_its_export_and_random_values(tmp_path):
    run = tmp_path / "run"
    cfg = load_config(
        str(ROOT / "configs/quickstart/pretrain_moco.py"),
        [
            "dataloader.train.dataset.names=toy_unlabeled:images=8:size=64",
            "dataloader.train.mapper.size=32",
            "dataloader.train.total_batch_size=4",
            "dataloader.train.num_workers=0",
            "model.queue_size=8",
            "model.pixel_mean=[100,110,120]",
            "train.device=cpu",
            "train.max_iter=2",
            f"train.output_dir={run}",
        ],
    )
    train(to_plain(prepare(cfg)), {"resume": False, "allow_unsafe": False})
    of_run, of_export = load_resnet(run), load_resnet(run / "export.safetensors")
    assert of_run.input.mean == (100, 110, 120) and of_export.input == Input()
    assert of_run.channels == {"stem": 32, "res2": 32, "res3": 64, "res4": 128, "res5": 256}
    for (name, a), b in zip(
        of_run.resnet.state_dict().items(), of_export.resnet.state_dict().values(), strict=True
    ):
        assert a.equal(b), name
    random = load_resnet(f"random:{run}")
    assert random.architecture == of_run.architecture
    assert not random(IMAGES)["res2"].equal(of_run(IMAGES)["res2"])
    again, other = load_resnet("random", like=run), load_resnet("random", like=run, seed=1)
    assert again(IMAGES)["res5"].equal(random(IMAGES)["res5"])
    assert not other(IMAGES)["res5"].equal(random(IMAGES)["res5"])
    assert load_resnet("random").architecture == RESNET50
    with pytest.raises(UserError, match="more than one .*stem.conv1"):
        load_resnet(run / "model_final.pth")


def test_frozen_whatever_happens_around_it():
    model = tiny_moco()
    before = torch.get_rng_state()
    net = resnet_of(model)
    assert torch.get_rng_state().equal(before)
    whole = torch.nn.Sequential(net).train()
    assert not any(m.training for m in net.modules())
    assert not any(p.requires_grad for p in whole.parameters())
    features = net(IMAGES)["res5"].clone()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert net(IMAGES)["res5"].equal(features)


def test_both_kinds_of_export_file(tmp_path):
    model = tiny_moco()
    expected = resnet_of(model)(IMAGES)["res5"]
    for path in export_weights(model.export(), tmp_path / "export"):
        assert load_resnet(path)(IMAGES)["res5"].equal(expected)


def test_what_is_no_resnet_is_a_sentence(tmp_path):
    state = tiny_moco().export()
    path = tmp_path / "cut.pth"

    def refused(changed, match):
        write_weights(path, changed)
        with pytest.raises(UserError, match=match):
            load_resnet(path)

    refused({n: t for n, t in state.items() if "stem" not in n}, "it has no stem.conv1.weight")
    refused({n: t for n, t in state.items() if "res3" not in n}, "it has no res3.0.conv1")
    refused({n: t for n, t in state.items() if not n.startswith("res4.1.conv2.norm")}, "res4.1")
    refused({**state, "res2.0.conv9.weight": torch.zeros(3)}, "res2.0.conv9.weight has no place")
    refused({**state, "res3.0.conv1.weight": torch.zeros(3)}, "res3.0.conv1.weight is")
    refused({"a.weight": torch.zeros(2)}, "no known layout")
    with pytest.raises(UserError, match="no folder of a run"):
        load_resnet(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match="no checkpoint yet"):
        load_resnet(tmp_path)


def test_a_resnet_that_ends_early():
    net = resnet_of(tiny_moco())
    short = {n: t for n, t in bare_state("it", net.resnet.state_dict()).items() if "res5" not in n}
    cut = FrozenResNet(infer_architecture("it", short), short)
    assert list(cut(IMAGES)) == ["stem", "res2", "res3", "res4"]
    assert cut(IMAGES)["res4"].equal(net(IMAGES)["res4"])


def test_names_of_checkpoints():
    given = ["output/run/export.pkl", "b=random:output/run", "random"]
    assert name_checkpoints(given) == {
        "run/export.pkl": "output/run/export.pkl",
        "b": "random:output/run",
        "random": "random",
    }
    assert (
        first_architecture(["random", "b", "c"]) == "b" and first_architecture(["random"]) is None
    )
