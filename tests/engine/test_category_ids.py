"""Category ids from 0, from 1 and with holes: one training, one answer, the file's ids back."""

import json
from pathlib import Path

import pytest
from detectron2.structures import BoxMode

from d2_unsupdet.analysis.detectors import open_detector
from d2_unsupdet.data import get_dataset
from d2_unsupdet.engine.config import load_config, to_plain
from d2_unsupdet.engine.run import evaluate, prepare, train

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = ("screw", "nut", "bolt")
SCHEMES = {"from 0": (0, 1, 2), "from 1": (1, 2, 3), "with holes": (3, 7, 90)}
SMALL = [
    "dataloader.train.mapper.augmentations.0.short_edge_length=[48]",
    "dataloader.test.mapper.augmentations.0.short_edge_length=48",
    "dataloader.train.total_batch_size=4",
    "dataloader.train.dataset.subset=null",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "train.max_iter=2",
    "train.eval_period=0",
    "train.pictures=0",
    "train.writers=[]",
]


def write_labels(path: Path, ids: tuple[int, ...]) -> str:
    """The same boxes under the ids of a scheme, listed backwards; the name of the data set."""
    records = get_dataset("toy_val:images=6:size=64")
    images, annotations = [], []
    for record in records:
        size = {key: record[key] for key in ("width", "height")}
        name = Path(record["file_name"]).name
        images.append({"id": record["image_id"], "file_name": name, **size})
        for found in record["annotations"]:
            box = BoxMode.convert(found["bbox"], found["bbox_mode"], BoxMode.XYWH_ABS)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": record["image_id"],
                    "category_id": ids[found["category_id"] % 3],
                    "bbox": [float(v) for v in box],
                }
            )
    categories = [{"id": i, "name": n} for i, n in zip(ids, NAMES, strict=True)][::-1]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return f"coco:{path}@{Path(records[0]['file_name']).parent}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The finished run of each scheme."""
    root = tmp_path_factory.mktemp("ids")
    for number, ids in enumerate(SCHEMES.values()):
        name = write_labels(root / f"{number}.json", ids)
        options = [f"dataloader.{part}.dataset.names={name}" for part in ("train", "test")]
        options += [*SMALL, f"train.output_dir={root / f'run{number}'}"]
        cfg = prepare(load_config(str(CONFIGS / "quickstart/finetune_detector.py"), options))
        assert cfg.model.heads.num_classes == 3
        train(to_plain(cfg), {"resume": False, "allow_unsafe": False})
    return [root / f"run{number}" for number in range(len(SCHEMES))]


def summary_of(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def detections_of(run: Path) -> list[dict]:
    return json.loads((run / "evaluation/coco_instances_results.json").read_text())


def test_the_ids_change_nothing_that_is_learned_or_scored(runs):
    first, *others = map(summary_of, runs)
    assert {f"AP-{name}" for name in NAMES} <= set(first["result"]["bbox"])
    for other in others:
        assert other["state_sha256"] == first["state_sha256"]
        assert other["result"]["bbox"] == pytest.approx(first["result"]["bbox"], nan_ok=True)


def test_detections_carry_the_ids_of_their_file(runs):
    by_scheme = [detections_of(run) for run in runs]
    assert len({d["category_id"] for d in by_scheme[0]}) > 1
    for ids, found in zip(SCHEMES.values(), by_scheme, strict=True):
        expected = [{**d, "category_id": ids[d["category_id"]]} for d in by_scheme[0]]
        assert found == expected


def test_a_run_says_its_classes_when_it_starts(runs):
    for run in runs:
        assert "3: screw, nut, bolt" in (run / "log.txt").read_text()


def test_scoring_alone_and_drawing_know_the_names(runs):
    run = runs[-1]
    before = detections_of(run)
    (run / "evaluation/coco_instances_results.json").unlink()
    cfg = prepare(load_config(str(run / "config.yaml")), eval_only=True)
    evaluate(to_plain(cfg), {"resume": False, "allow_unsafe": False})
    assert detections_of(run) == before
    assert list(open_detector(str(run), label="run").names) == list(NAMES)
