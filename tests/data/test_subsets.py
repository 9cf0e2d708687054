"""Subsets: nested, independent of order, reusable from a file."""

import json
import random

import pytest

from d2_unsupdet.data import subsets
from d2_unsupdet.data.subsets import STANDARD, draw, parse, save_ids, select
from d2_unsupdet.errors import UserError

IDS = [f"im{k}" for k in range(1000)]


def test_known_draw():
    """Pinned: published lists must never change."""
    assert draw(range(1000), "0.5%@seed0") == [986, 205, 652, 248, 480]


@pytest.mark.parametrize("every_class", [False, True])
def test_smaller_subsets_lie_inside_larger_ones(every_class):
    classes = {image: [k % 7] for k, image in enumerate(IDS)}
    drawn = [draw(IDS, {"fraction": f, "seed": 3, "every_class": every_class}, classes)
             for f in STANDARD]  # fmt: skip
    assert [len(d) for d in drawn] == [10, 20, 50, 100, 300, 500, 700]
    for small, large in zip(drawn, drawn[1:], strict=False):
        assert large[: len(small)] == small


def test_order_of_the_input_does_not_matter_and_the_seed_does():
    shuffled = random.Random(0).sample(IDS, len(IDS))
    assert draw(IDS, "10%@seed1") == draw(shuffled, "10%@seed1")
    assert draw(IDS, "10%@seed1") != draw(IDS, "10%@seed2")


def test_removing_other_images_keeps_the_order():
    kept = [i for i in IDS if int(i[2:]) % 3]
    assert draw(kept, "100%") == [i for i in draw(IDS, "100%") if i in set(kept)]


def test_images_are_chosen_evenly():
    counts = [len(set(draw(IDS, f"30%@seed{s}")) & set(IDS[:100])) for s in range(50)]
    assert 27 < sum(counts) / 50 < 33  # 30 expected, deviation of the mean 0.6


def test_every_class_appears_when_the_count_allows():
    classes = {image: [k] if k < 20 else [99] for k, image in enumerate(IDS)}
    chosen = draw(IDS, "21@seed0+every_class", classes)
    assert {c for image in chosen for c in classes[image]} == {*range(20), 99}
    assert len(set(draw(IDS, "21@seed0", classes)) & set(IDS[:20])) < 20


def test_at_least_one_image():
    assert len(draw(IDS[:3], "1%")) == 1


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("10%@seed1", "10%@seed1"),
        ("0.5%", "0.5%@seed0"),
        (0.1, "10%@seed0"),
        ("0.1", "10%@seed0"),
        (50, "50@seed0"),
        ("50@seed2+every_class", "50@seed2+every_class"),
        ({"count": 5, "seed": 4}, "5@seed4"),
        ("ids:a/b.json", "ids:a/b.json"),
    ],
)
def test_specs_and_their_text(spec, text):
    assert str(parse(spec)) == text
    assert parse(text) == parse(spec)


@pytest.mark.parametrize("spec", ["ten", "1.1.1%", "0%", "120%", 0, 1.5, "", {"part": 1}, {}, True])
def test_specs_that_are_wrong(spec):
    with pytest.raises(UserError):
        parse(spec)


def test_more_images_than_there_are():
    with pytest.raises(UserError, match="2000 images was asked of only 1000"):
        draw(IDS, 2000)


def test_saved_ids_select_the_same_records(tmp_path):
    records = [{"image_id": i, "file_name": i} for i in IDS]
    chosen = select(records, "2%@seed5")
    path = tmp_path / "ids.json"
    save_ids(path, chosen, subset="2%@seed5")
    assert select(records, f"ids:{path}") == chosen
    assert json.loads(path.read_text())["count"] == 20
    assert list(tmp_path.iterdir()) == [path]


def test_integer_ids_stay_integers(tmp_path):
    records = [{"image_id": i} for i in range(30)]
    save_ids(tmp_path / "ids.json", select(records, 5))
    assert select(records, f"ids:{tmp_path}/ids.json") == select(records, 5)


def test_ids_of_another_data_set_are_refused(tmp_path):
    save_ids(tmp_path / "ids.json", [{"image_id": "other"}])
    with pytest.raises(UserError, match="1 of the 1 ids .* are not in the data set, 'other'"):
        draw(IDS, f"ids:{tmp_path}/ids.json")
    (tmp_path / "ids.json").write_text("{}")
    with pytest.raises(UserError, match="not an id list"):
        draw(IDS, f"ids:{tmp_path}/ids.json")
    with pytest.raises(UserError, match="Cannot read the id list"):
        draw(IDS, f"ids:{tmp_path}/none.json")


def test_joined_data_sets_with_equal_ids():
    records = [{"image_id": i, "dataset_name": d} for d in "ab" for i in range(50)]
    assert len(select(records, "10%")) == 10
    assert subsets.record_id(records[60]) == "b/10"
