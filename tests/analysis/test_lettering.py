"""Text in pictures is read in any language that the font has, and labels cover no other."""

import builtins

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image, ImageDraw

from d2_unsupdet.analysis import lettering, plots
from d2_unsupdet.analysis.lettering import Labels, font, written
from d2_unsupdet.analysis.pictures import PALETTE, draw_instances, legend, titled


@pytest.fixture(autouse=True)
def afresh(monkeypatch):
    """What is remembered of a process."""
    monkeypatch.setattr(lettering, "_said", set())
    cached = (font, written, lettering._path, lettering._characters)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def shape(character):
    return bytes(font(12).getmask(character))


@pytest.mark.parametrize("text", ["Kröte", "éléphant", "кошка", "γάτα", "ő"])
def test_letters_are_no_empty_boxes_and_differ(text):
    assert written(text) == text
    missing = shape("\U0010fffd")
    shapes = [shape(letter) for letter in dict.fromkeys(text)]
    assert missing not in shapes and len(set(shapes)) == len(shapes)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Kro\u0308te", "Kröte"),  # as file names of macOS have it
        ("ＡＢ", "AB"),
        ("two\nlines\there", "two lines here"),
        ("狗 dog", r"\u72d7 dog"),
        ("🐸", r"\U0001f438"),
    ],
)
def test_what_the_font_lacks_stays_readable(text, expected):
    assert written(text) == expected


def test_what_the_font_lacks_is_said_once(caplog):
    for text in ("狗", "rote Kröte 🐸", "猫"):
        written(text)
    assert len(caplog.records) == 1
    assert "the font has no 狗 of '狗'" in caplog.text and r"such as \u72d7" in caplog.text


def test_without_matplotlib_ascii_is_left(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert written("Kröte") == r"Kr\xf6te"
    assert titled(np.zeros((8, 80, 3), np.uint8), "Kröte").shape == (32, 80, 3)


def test_titles_and_legends_are_written_so_too():
    blank = np.zeros((8, 200, 3), np.uint8)
    assert np.array_equal(titled(blank, "狗"), titled(blank, r"\u72d7"))
    one, other = (legend([(name, PALETTE[0])], 20) for name in ("狗", r"\u72d7"))
    assert np.array_equal(one, other)


def test_figures_take_labels_as_they_are(tmp_path, recwarn):
    def draw(title):
        figure, axes = plots.axes_grid((2, 1), 1, 1, title)
        axes[0, 0].set_title("$x\nКошка")
        plots.save(figure, tmp_path / "a.png")
        return figure, (tmp_path / "a.png").read_bytes()

    figure, content = draw("狗 $a$")
    assert figure.get_suptitle() == r"\u72d7 $a$"
    assert content == draw(r"\u72d7 $a$")[1]
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_powers_of_ten_at_an_axis_stay_formulas(tmp_path):
    figure, axes = plots.axes_grid((4, 3), 1, 1, "rates")
    axes[0, 0].set_axis_on()
    axes[0, 0].set_yscale("log")
    axes[0, 0].set_ylim(1e-3, 1)
    figure.canvas.draw()
    plots.save(figure, tmp_path / "a.png")
    ticks = [label for label in axes[0, 0].get_yticklabels() if "mathdefault" in label.get_text()]
    assert ticks and all(label.get_parse_math() for label in ticks)


def boxes_of(places):
    picture = Image.new("RGB", (200, 100))
    labels = Labels(ImageDraw.Draw(picture), 200, 100)
    said = [labels.add([*place, 190, 95], "cat 0.90", PALETTE[0]) for place in places]
    return said, labels.taken


def test_a_label_moves_into_its_box_and_then_stays_away():
    said, taken = boxes_of([(20, 40), (24, 42), (22, 41), (120, 41), (20, 70)])
    assert said == [True, True, False, True, True]
    assert taken[0][3] <= 40 and taken[1][1] >= 42  # on top of its box, inside its box
    for i, one in enumerate(taken):
        assert not any(lettering._meet(one, other) for other in taken[:i])


def test_labels_stay_inside_the_picture():
    _, taken = boxes_of([(-5, -5), (195, 50)])
    assert all(x0 >= 0 and y0 >= 0 and x1 <= 200 and y1 <= 100 for x0, y0, x1, y1 in taken)


def test_of_many_the_surest_keeps_its_label_and_all_keep_their_boxes():
    count = 12
    corners = torch.stack([torch.full((count,), 60.0), torch.arange(count) * 8.0 + 60], 1)
    found = Instances((320, 320), pred_boxes=Boxes(torch.cat([corners, corners + 100], 1)))
    found.scores = torch.linspace(0.1, 0.9, count).roll(4)
    found.pred_classes = torch.arange(count) % 2
    image, names = np.full((320, 320, 3), 60, dtype=np.uint8), ["cat", "dog"]
    drawn, surest = draw_instances(image, found, names), int(found.scores.argmax())
    x, y = corners[surest].int().tolist()
    label = slice(y - 15, y - 3), slice(x, x + 50)
    assert np.array_equal(draw_instances(image, found[surest], names)[label], drawn[label])
    bottoms = drawn[corners[:, 1].int() + 100, 155]
    assert np.array_equal(bottoms, np.array(PALETTE)[found.pred_classes])
