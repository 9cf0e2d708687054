"""tools/evaluate_boxes.py: sources and stores in one table."""

import json

import pytest

from d2_unsupdet.data import catalog
from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation.boxes import score_source
from d2_unsupdet.priors import PriorStore
from tests.evaluation.test_boxes import drawn_boxes
from tests.scripts import load_script

DATA = "toy_val:images=4:size=64"


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/evaluate_boxes.py")


@pytest.fixture
def store(tmp_path):
    """A first generation of one useless box an image, a second of the drawn ones."""
    store = PriorStore(tmp_path / "priors")
    for number in (0, 1):
        with store.write(number, {"source": "test"}) as writer:
            for record in catalog.get_dataset(DATA):
                width, height = record["width"], record["height"]
                boxes = drawn_boxes(record) / 64 if number else drawn_boxes(record)[:1] * 0 + 0.01
                scores = boxes[:, 0] * 0 + 1
                writer.add(record, width, height, boxes, scores)
    return str(tmp_path / "priors")


def test_sources_and_generations_stand_in_one_table(tool, store, tmp_path, capsys):
    command = ["--dataset", DATA, "--workers", "0", "--out", str(tmp_path / "out")]
    tool.main([*command, "--source", "random:count=20", "--store", store, f"{store}@0"])
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[-5:]}
    assert rows["AP"] == ["AP50", "AP75", "AR@1", "AR@10", "AR@100"]
    assert rows[store][0] == "100.0" and rows[f"{store}@0"] == ["0.0"] * 6
    told = json.loads((tmp_path / "out/boxes.json").read_text())
    assert list(told["results"]) == ["random:count=20", store, f"{store}@0"]
    assert 0 < told["results"]["random:count=20"]["AR@100"] < 100
    assert (tmp_path / "out/boxes_1/coco_instances_results.json").is_file()


def test_nothing_to_score_is_said(tool):
    with pytest.raises(UserError, match="give --source or --store"):
        tool.main(["--dataset", DATA])
    with pytest.raises(UserError, match="required: --dataset; --help"):
        tool.main(["/nope"])


@pytest.mark.parametrize(
    "data, ending, said",
    [
        (DATA, "", "holds no published boxes"),
        (DATA, "@7", r"has no generation 7; it has \[0, 1\]"),
        ("toy_train:images=4:size=64", "", "it holds 4 images, of 4 asked for: extract the boxes"),
    ],
)
def test_a_store_that_does_not_fit_is_said_before_any_image_is_read(
    tool, store, tmp_path, data, ending, said
):
    folder = store if ending or data != DATA else str(tmp_path / "nowhere")
    with pytest.raises(UserError, match=said):
        tool.main(["--dataset", data, "--workers", "2", "--store", folder + ending])


def test_a_worker_s_sentence_comes_without_its_traceback():
    with pytest.raises(UserError, match="^No box here.$"):
        score_source(Refusing(), DATA, workers=1)


class Refusing:
    """A box source that cannot work."""

    def __call__(self, record, pixels, rng):
        raise UserError("No box here.")
