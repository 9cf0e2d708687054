"""Names come from files and runs: on a page they are text and nothing else."""

import re
from dataclasses import fields

import pytest
import yaml

from d2_unsupdet.checkpoint.published import EXPORT, WHOLE
from d2_unsupdet.sharing.card import model_card
from d2_unsupdet.sharing.facts import Facts

HOSTILE = "a<script>alert(1)</script>|b\n# c"


@pytest.mark.parametrize("kind, content", [("finetune", WHOLE), ("pretrain", EXPORT)])
def test_no_name_becomes_html_or_ends_a_table(kind, content):
    told = {one.name: HOSTILE for one in fields(Facts) if one.type in ("str", str)}
    lists = {"scores": {HOSTILE: 1.0}, "classes": [HOSTILE], "environment": {HOSTILE: HOSTILE}}
    facts = Facts(**{**told, **lists, "kind": kind, "seed": 0})
    card = model_card(facts, content=content, sha256="0" * 64, parameters=1, folder="shared")
    header, body = card.removeprefix("---\n").split("---\n", 1)
    assert HOSTILE in yaml.safe_load(header)["model-index"][0]["name"]
    assert "<" not in body.replace("&lt;", "") and "&lt;script>" in body
    assert not re.search(r"^# c", body, re.MULTILINE)
    for line in body.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 3


@pytest.mark.parametrize(
    "data, detector, recipe",
    [
        ("imagenet_train", "", "configs/finetune/coco/mask_rcnn_r50_fpn_1x.py"),
        ("imagenet_train", "DETR", "configs/finetune/coco/detr_r50_50ep.py"),
        ("coco", "ConditionalDETR", "configs/finetune/coco/conditional_detr_r50_50ep.py"),
        ("coco", "DeformableDETR", "configs/finetune/coco/deformable_detr_r50_50ep.py"),
        ("coco", "DNDABDeformableDETR", "configs/finetune/coco/dn_dab_deformable_detr_r50_50ep.py"),
        ("toy_unlabeled", "DETR", "configs/finetune/toy/detr.py"),
        ("toy_unlabeled", "", "configs/quickstart/finetune.py"),
    ],
)
def test_the_use_names_a_recipe_that_exists(data, detector, recipe):
    told = {one.name: "x" for one in fields(Facts) if one.type in ("str", str)}
    told |= {"kind": "pretrain", "data": data, "detector": detector}
    facts = Facts(**told, scores={})
    card = model_card(facts, content=EXPORT, sha256="0" * 64, parameters=1, folder="my folder")
    assert f"--config-file {recipe} train.init_checkpoint='my folder'\n" in card
