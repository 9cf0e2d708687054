"""Names in headings are short, but never two things by one name, and never markup."""

import pytest

from d2_unsupdet.analysis.page_names import breakable, last_parts, short_data, short_names


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("toy_val:images=8", "toy_val:images=8"),
        ("coco:/data/own/val.json@/data/own/images", "coco:own/val.json"),
        ("coco:val.json@images/val", "coco:val.json"),
        ("coco:/data/cards/annotations/val.json@/data/cards", "coco:cards/val.json"),
        ("voc:/data/VOC2007@trainval", "voc:data/VOC2007@trainval"),
        ("folder:/a/b/c", "folder:b/c"),
        ("['coco:/x/y/a.json@/i', 'voc_2007_test']", "['coco:y/a.json', 'voc_2007_test']"),
        ("https://a.b/c/d.pkl", "https://a.b/c/d.pkl"),
        ("voc_2007_test", "voc_2007_test"),
    ],
)
def test_a_data_set_is_called_by_its_file(name, short):
    assert short_data(name) == short


def test_names_that_would_be_one_stay_whole():
    same = ["coco:a/x/val.json@i/j", "coco:b/x/val.json@i/j"]
    told = short_names([*same, "coco:a/y/val.json@i/j"])
    assert told == {name: name for name in same} | {"coco:a/y/val.json@i/j": "coco:y/val.json"}
    assert last_parts("/a/b/c") == "b/c" and last_parts("a") == "a"


def test_places_to_break_are_no_markup_of_a_name():
    assert breakable("short_name") == "short_name"
    assert breakable("coco:a/<b>_c@d/e&f") == ("coco:a/<wbr>&lt;b&gt;_<wbr>c<wbr>@d/<wbr>e&amp;f")
