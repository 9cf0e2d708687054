"""The papers' tables: ids, numbers, recipes that load, scores that our evaluators give."""

from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances

from d2_unsupdet.data import catalog
from d2_unsupdet.engine.config import load_config, scored_set
from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation import build_evaluator
from d2_unsupdet.evaluation.probes import STAGES
from d2_unsupdet.protocols import papers, rows, select
from d2_unsupdet.protocols.page import NOT_SCORED
from d2_unsupdet.protocols.rows import STARTS
from tests.scripts import load_script

ROOT = Path(__file__).resolve().parents[2]
RECIPES = {
    (recipe.config, recipe.overrides)
    for row in rows()
    for recipe in (row.pretrain, row.finetune)
    if recipe
}
# Names that other tests hold against the evaluators themselves: test_lvis, test_cityscapes,
# test_clustering, test_probes_metrics.
LVIS = {f"bbox/{name}" for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")}
ELSEWHERE = {
    "lvis": LVIS,
    "cityscapes_instance": {"segm/AP", "segm/AP50"},
    "cityscapes_sem_seg": {"sem_seg/IoU"},
    "clustering": {"sem_seg/mIoU", "sem_seg/pACC"},
}


def test_ids_are_unique_and_speak():
    ids = [row.id for row in rows()]
    assert len(set(ids)) == len(ids) > 300
    assert all(name == name.lower() and " " not in name for name in ids)
    assert {paper.name for paper in papers()} >= {
        "DUPR",
        "DenseSiam",
        "Siamese DETR",
        "JoinDet",
        "DETA",
    }


def test_known_rows():
    (row,) = select("dupr-voc-dupr")
    assert row.numbers == {"bbox/AP": 58.5, "bbox/AP50": 83.2, "bbox/AP75": 65.2}
    assert row.start == "random" and row.pretrain and row.finetune
    (row,) = select("joindet-few-1pct-joindet")
    assert row.values == {"bbox/AP": "15.89±0.2"} and row.numbers == {"bbox/AP": 15.89}
    assert row.start == "swav" and row.setting == "1 %, 2000 epochs"
    (row,) = select("siamesedetr-heads-siamese")
    assert row.values == {
        "bbox_coco/AR@1": "12.4",
        "bbox_coco/AR@10": "23.0",
        "bbox_coco/AR@100": "30.7",
    }
    (row,) = select("deta-coco-swin")
    assert row.cited and row.finetune is None


def test_an_unknown_row_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'dupr-voc-dupr'"):
        select("dupr-voc-dpr")
    assert len(select("dupr-coco-fpn-?x-*")) == 8


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row.id)
def test_a_row_is_complete(row):
    assert row.start in STARTS
    assert row.cited or row.finetune or row.tool or row.pretrain
    assert set(row.values) <= set(row.columns)
    for text in row.values.values():
        number, _, spread = text.partition("±")
        assert float(number) >= 0 and (not spread or float(spread) > 0)
    if row.id.startswith("deta") or "family" in row.id:
        assert row.pretrain is None
    for recipe in (row.pretrain, row.finetune):
        assert recipe is None or (ROOT / recipe.config).is_file()


def test_no_table_begins_twice_with_the_same():
    """A copied line whose `from` was forgotten would be another row's number."""
    for paper in papers():
        for table in paper.tables:
            made = [
                (row.start, row.pretrain, row.finetune, row.tool)
                for row in table.rows
                if not row.cited
            ]
            assert len(set(made)) == len(made), table.title


def load(recipe):
    return load_config(str(ROOT / recipe[0]), list(recipe[1]))


@pytest.mark.parametrize("recipe", [r for r in sorted(RECIPES) if r[1]], ids=str)
def test_overrides_fit_their_configs(recipe):
    load(recipe)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(RECIPES), ids=str)
def test_every_recipe_loads(recipe):
    load(recipe)


def one_right_answer(kind: str, **options) -> set[str]:
    """The names of the scores on an image with one object."""
    name = f"rows_test_{kind}_{len(options)}"
    box = {"bbox": [10.0, 10.0, 40.0, 40.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    polygon = [[10.0, 10.0, 40.0, 10.0, 40.0, 40.0, 10.0, 40.0]]
    record = {"image_id": 1, "height": 50, "width": 50}
    record["annotations"] = [box | {"segmentation": polygon}]
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, lambda: [record])
        MetadataCatalog.get(name).set(evaluator_type=kind, thing_classes=["cat"], year=2007)
    found = Instances((50, 50))
    found.pred_boxes = Boxes(torch.tensor([box["bbox"]]))
    found.scores, found.pred_classes = torch.ones(1), torch.zeros(1, dtype=torch.int64)
    mask = torch.zeros(1, 50, 50, dtype=torch.bool)
    mask[:, 10:40, 10:40] = True
    if kind == "coco" and not options:
        found.pred_masks = BitMasks(mask).tensor
    evaluator = build_evaluator(name, distributed=False, **options)
    evaluator.reset()
    evaluator.process([record], [{"instances": found}])
    return {f"{task}/{score}" for task, scores in evaluator.evaluate().items() for score in scores}


@pytest.fixture(scope="module")
def produced() -> dict[str, set[str]]:
    probes = {f"linear/{stage}/accuracy" for stage in STAGES}
    probes |= {f"svm/{stage}/mAP" for stage in STAGES}
    found = {kind: one_right_answer(kind) for kind in ("coco", "pascal_voc")}
    found["agnostic"] = one_right_answer("coco", class_agnostic=True)
    return found | ELSEWHERE | {"toy": found["coco"], "probe": probes}


def kind_of(row, kinds: dict[str, str]) -> str:
    """The evaluator that a row's last stage asks for."""
    if row.tool:
        return "agnostic" if "evaluate_boxes" in row.tool[0] else "probe"
    recipe = row.finetune or row.pretrain
    key = recipe.config
    if row.finetune and "cityscapes" not in key:  # one evaluator a folder, and few files to read
        key = str(Path(key).parent)
    if key not in kinds:
        cfg = load((recipe.config, () if row.finetune else recipe.overrides))
        test = scored_set(cfg)
        metadata = catalog.metadata(str(test.dataset.names))
        kinds[key] = metadata.get("evaluator_type", "coco")
        if cfg.dataloader.evaluator.get("class_agnostic"):
            kinds[key] = "agnostic"
    return kinds[key]


def test_every_score_is_one_that_we_produce(produced):
    kinds: dict[str, str] = {}
    for row in rows():
        if row.cited:
            continue
        assert not any(metric.startswith(NOT_SCORED) for metric in row.columns)
        strange = set(row.columns) - produced[kind_of(row, kinds)]
        assert not strange, (row.id, strange)
    assert set(kinds.values()) >= {"coco", "pascal_voc", "lvis", "agnostic", "clustering"}


def test_the_tools_understand_their_commands(monkeypatch):
    """And find their data by name; probes of Places are asked for both maps."""
    monkeypatch.chdir(ROOT)
    for row in rows():
        if not row.tool or row.cited:
            continue
        script, *words = (word.format(weights="a.pth", out="out") for word in row.tool)
        module = load_script(script)
        args = module.parse(words)
        names = [args.dataset] if script.endswith("boxes.py") else [args.train_data, args.test_data]
        for name in names:
            catalog.metadata(name)
        if "places" in row.id:
            assert args.unpooled == ("unpooled" in row.id) and args.epochs == 56
