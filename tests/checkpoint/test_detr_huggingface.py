"""Hugging Face models with random weights give the same answers after conversion to ours."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import ImageList

from d2_unsupdet.checkpoint import convert, detect
from tests.checkpoint.test_detr_convert import CONFIGS

transformers = pytest.importorskip("transformers")

DIM, QUERIES, CLASSES = 64, 20, 7
SIZES = dict(
    d_model=DIM,
    encoder_layers=2,
    decoder_layers=2,
    encoder_ffn_dim=96,
    decoder_ffn_dim=96,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    num_queries=QUERIES,
    num_labels=CLASSES,
    # with it, this library feeds the next decoder layer what only the heads should see normalised
    auxiliary_loss=False,
)
DEPTHS = {18: ("basic", [64, 128, 256, 512], [2, 2, 2, 2]),
          50: ("bottleneck", [256, 512, 1024, 2048], [3, 4, 6, 3])}  # fmt: skip
KINDS = {  # ours, their class, what it is told, depth
    "detr": ("Detr", {}, 18),
    "conditional_detr": ("ConditionalDetr", {}, 18),
    "deformable_detr": ("DeformableDetr", {}, 50),
    "deformable_detr_refine": ("DeformableDetr", {"with_box_refine": True}, 18),
    "deformable_detr_two_stage": (
        "DeformableDetr",
        {"with_box_refine": True, "two_stage": True, "two_stage_num_proposals": QUERIES},
        18,
    ),
}


def backbone(layout, depth, several):
    if layout == "timm":
        pytest.importorskip("timm")
        return transformers.TimmBackboneConfig(
            backbone=f"resnet{depth}",
            use_pretrained_backbone=False,
            out_indices=[2, 3, 4] if several else [4],
        )
    kind, widths, blocks = DEPTHS[depth]
    return transformers.ResNetConfig(
        embedding_size=64,
        hidden_sizes=widths,
        depths=blocks,
        layer_type=kind,
        out_features=["stage2", "stage3", "stage4"] if several else ["stage4"],
    )


def theirs(kind, layout):
    """Their model with random weights in which nothing is alike, and no two heads share."""
    name, told, depth = KINDS[kind]
    config = getattr(transformers, f"{name}Config")(
        backbone_config=backbone(layout, depth, kind.startswith("deformable")), **SIZES, **told
    )
    model = getattr(transformers, f"{name}ForObjectDetection")(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            values = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(1 + values.abs())
            elif name.endswith(("level_embed", "query_position_embeddings.weight")):
                tensor.copy_(values)
            elif tensor.dim() > 1:
                tensor.copy_(values * (1.5 / tensor[0].numel()) ** 0.5)
            elif tensor.is_floating_point():
                tensor.copy_(0.1 * values + name.endswith("weight"))
    return model, depth


def ours(kind, depth, state):
    """Our config of that kind in the same sizes."""
    model = LazyConfig.load(str(CONFIGS / f"{kind}.py")).model
    model.backbone.stages.depth = depth
    model.encoder.update(dim=DIM, heads=4, num_layers=2, ffn_dim=96)
    model.decoder.num_layers = 2
    model.heads.num_classes = CLASSES
    if "proposals" in model:
        model.proposals.update(num_proposals=QUERIES, score_channels=CLASSES, ignore_padding=False)
    else:
        model.query_source.num_queries = QUERIES
    built = instantiate(model).eval()
    built.load_state_dict(state)
    return built


@pytest.mark.parametrize(
    ("kind", "layout"),
    [*((kind, "own") for kind in KINDS), *((kind, "timm") for kind in list(KINDS)[:3])],
)
def test_answers_are_the_same(kind, layout):
    model, depth = theirs(kind, layout)
    state, report = convert(model.state_dict())
    assert report.source == detect(model.state_dict()).name
    assert report.depth == depth
    assert set(report.names) | set(report.dropped) == set(model.state_dict())
    detector = ours(kind, depth, state)
    images = [torch.randn(3, 160, 192), torch.randn(3, 127, 150)]
    batch = ImageList.from_tensors(images)
    with torch.no_grad():
        features = detector.features(batch)
        encoded = detector.encode(features)
        decoded = detector.decode(encoded, detector.queries(encoded))
        expected = model(pixel_values=batch.tensor, pixel_mask=(~features.mask).long())
    assert expected.logits.std(1).mean() > 1e-3  # queries differ, so the comparison says something
    torch.testing.assert_close(decoded.logits[-1], expected.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(decoded.boxes[-1], expected.pred_boxes, rtol=1e-4, atol=2e-5)


def old_spelling(name):
    """The names that files on the Hub have, from before the library's release 5."""
    name = name.replace("model.backbone.model.", "model.backbone.conv_encoder.model.")
    name = name.replace(".o_proj.", ".out_proj.").replace(".mlp.fc", ".fc")
    if "decoder.layers" in name:
        for short, long in (("q", "content"), ("q", "pos"), ("k", "content"), ("k", "pos")):
            name = name.replace(f"self_attn.{short}_{long}_proj", f"sa_{short}{long}_proj")
            name = name.replace(f"encoder_attn.{short}_{long}_proj", f"ca_{short}{long}_proj")
        name = name.replace("encoder_attn.q_pos_sine_proj", "ca_qpos_sine_proj")
    return name


@pytest.mark.parametrize("kind", ["detr", "conditional_detr", "deformable_detr_two_stage"])
def test_files_of_the_hub_with_older_names(kind):
    model, _ = theirs(kind, "own")
    state = model.state_dict()
    older = {old_spelling(name): tensor for name, tensor in state.items()}
    if kind == "conditional_detr":
        for attention, short in (("self_attn", "sa"), ("encoder_attn", "ca")):
            older = {
                n.replace(f"{attention}.v_proj", f"{short}_v_proj") if "decoder" in n else n: t
                for n, t in older.items()
            }
    assert set(older) != set(state)
    expected, _ = convert(state)
    found, report = convert(older)
    assert report.source.startswith("hf_")
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in found)
