"""An image and its boxes: geometry through real files, crops, policies, too few boxes."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from d2_unsupdet.data.images import NoBoxes
from d2_unsupdet.data.paste import PasteSmallBoxes
from d2_unsupdet.data.photometric import Photometric
from d2_unsupdet.data.prior_mapper import PriorMapper
from d2_unsupdet.errors import UserError
from d2_unsupdet.seeding import seeded

PLAIN = Photometric(jitter=0, grayscale=0, blur=0)
WIDTH, HEIGHT = 200, 150
GRID = np.array(
    [[x, y, x + 40, y + 30] for y in (5, 55, 105) for x in (5, 60, 115)], np.float32
)  # nine boxes, each of a colour of its own


class Boxes(NamedTuple):
    boxes: np.ndarray
    scores: np.ndarray


class Given:
    """A source of fixed boxes, the first one best."""

    def __init__(self, boxes=GRID):
        self.boxes = np.asarray(boxes, np.float32).reshape(-1, 4)

    def __call__(self, record, pixels, rng):
        return Boxes(self.boxes, np.linspace(1, 0.1, len(self.boxes), dtype=np.float32))


@pytest.fixture
def picture(tmp_path):
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for i, (x0, y0, x1, y1) in enumerate(GRID.astype(int)):
        image[y0:y1, x0:x1] = colour(i)
    path = tmp_path / "x.png"
    Image.fromarray(image).save(path)
    return str(path)


def colour(i):
    return 20 + 20 * i, 255 - 25 * i, 100


def mapper(source=None, augmentations=(), **options):
    source = Given() if source is None else source
    return PriorMapper(
        source=source, augmentations=augmentations, **{"photometric": PLAIN, **options}
    )


def draw(made, path, index=0, epoch=0):
    record = {"file_name": path, "image_id": 3, "index": index, "epoch": epoch, "annotations": []}
    with seeded(0, epoch, index):
        return made(record)


def which(score):
    """The box of a score."""
    return round((1 - float(score)) / 0.9 * (len(GRID) - 1))


def test_the_sample_follows_the_contract(picture):
    sample = draw(mapper(crop_size=32), picture)
    assert sample["image"].shape == (3, HEIGHT, WIDTH) and sample["image"].dtype == torch.uint8
    assert torch.equal(sample["priors"], torch.from_numpy(GRID))
    assert sample["prior_scores"].dtype == torch.float32
    assert sample["crops"].shape == (9, 3, 32, 32) and sample["crops"].dtype == torch.uint8
    for i, crop in enumerate(sample["crops"]):
        assert (crop == torch.tensor(colour(i))[:, None, None]).all()
    kept = {"file_name": picture, "image_id": 3, "index": 0, "epoch": 0}
    assert {key: sample[key] for key in kept} == kept and "annotations" not in sample
    assert (sample["height"], sample["width"]) == (HEIGHT, WIDTH)
    assert "crops" not in draw(mapper(crop_size=0), picture)


AUGMENTATIONS = [
    T.RandomFlip(prob=0.5),
    T.ResizeShortestEdge((100, 300), sample_style="range"),
    T.RandomCrop("relative_range", (0.6, 0.6)),
]


def test_boxes_follow_their_pixels_and_crops_their_boxes(picture):
    """The colour in the middle of a box and in its crop tells which one it is."""
    counts, mirrored = set(), 0
    for index in range(30):
        sample = draw(mapper(augmentations=AUGMENTATIONS, crop_size=8), picture, index)
        h, w = sample["image"].shape[1:]
        rows = zip(sample["priors"], sample["prior_scores"], sample["crops"], strict=True)
        for box, score, crop in rows:
            expected = colour(which(score))
            x0, y0, x1, y1 = box.tolist()
            assert 0 <= x0 < x1 <= w and 0 <= y0 < y1 <= h
            assert crop[:, 4, 4].tolist() == list(expected)
            if min(x1 - x0, y1 - y0) > 6:
                found = sample["image"][:, int((y0 + y1) / 2), int((x0 + x1) / 2)]
                assert (found.int() - torch.tensor(expected)).abs().max() <= 2
        counts.add(len(sample["priors"]))
        first = {which(s): b for s, b in zip(sample["prior_scores"], sample["priors"], strict=True)}
        mirrored += 0 in first and 1 in first and bool(first[0][0] > first[1][0])
    assert len(counts) > 2 and min(counts) < 9  # crops lost some boxes
    assert mirrored > 3


def test_crops_are_of_the_file_whatever_happens_to_the_image(picture):
    """Neither mirrored nor cut: an asymmetric box looks the same under a flip."""
    box = [[5, 5, 100, 35]]  # two colours side by side
    plain = draw(mapper(Given(box), crop_size=16), picture)
    flipped = draw(mapper(Given(box), [T.RandomFlip(prob=1)], crop_size=16), picture)
    assert torch.equal(plain["crops"], flipped["crops"])
    assert torch.equal(plain["image"].flip(2), flipped["image"])
    assert flipped["priors"][0].tolist() == [100, 5, 195, 35]


def test_boxes_outside_the_image_are_cut_or_left_out(picture):
    boxes = [[-10, -5, 20, 20], [180, 140, 260, 170], [210, 10, 260, 30], [50, 50, 50, 70]]
    sample = draw(mapper(Given(boxes), crop_size=8), picture)
    assert sample["priors"].tolist() == [[0, 0, 20, 20], [180, 140, 200, 150]]
    assert len(sample["prior_scores"]) == len(sample["crops"]) == 2


def test_top_sampled_and_random(picture):
    many = np.repeat(GRID[:1], 400, axis=0)
    options = {"source": Given(many), "count": 30, "crop_size": 0}
    made = {p: mapper(policy=p, **options) for p in ("top", "sampled", "random")}
    ranks = {
        name: [
            (1 - draw(m, picture, index)["prior_scores"]).div(0.9).mul(399).round().long()
            for index in range(300)
        ]
        for name, m in made.items()
    }
    assert all(r.tolist() == list(range(30)) for r in ranks["top"])
    assert all(len(r) == 30 and (r.diff() > 0).all() for r in ranks["random"])
    assert abs(torch.cat(ranks["random"]).float().mean() - 199.5) < 8
    lengths = torch.tensor([len(r) for r in ranks["sampled"]], dtype=torch.float32)
    assert abs(lengths.mean() - 29.7) < 1 and lengths.std() > 2
    shares = torch.cat(ranks["sampled"]).bincount(minlength=300) / 300
    assert len(shares) == 300  # rank 301 and beyond: never
    for rank in (1, 30, 200):  # -ln(i / 301) / 10, with five standard deviations of room
        chance = -np.log(rank / 301) / 10
        assert abs(shares[rank - 1] - chance) < 5 * np.sqrt(chance * (1 - chance) / 300)
    with pytest.raises(UserError, match="policy='tops' is not known.*Did you mean 'top'"):
        mapper(policy="tops")


def test_an_exact_count_repeats_boxes_with_other_colours(picture):
    made = mapper(Given(GRID[:4]), exactly=10, crop_size=16, photometric=Photometric(jitter=1))
    sample = draw(made, picture)
    assert torch.equal(sample["priors"][:8], torch.from_numpy(GRID[[0, 1, 2, 3] * 2]))
    assert len(sample["priors"]) == len(sample["crops"]) == len(sample["prior_scores"]) == 10
    assert not torch.equal(sample["crops"][0], sample["crops"][4])
    assert len(draw(mapper(exactly=3), picture)["priors"]) == 3


def test_too_few_boxes_count_as_bad(picture):
    with pytest.raises(NoBoxes, match="too few boxes found: 1 of at least 2"):
        draw(mapper(Given(GRID[:1]), least=2), picture)
    with pytest.raises(NoBoxes, match="too few boxes found: 0 of at least 1"):
        draw(mapper(Given([])), picture)
    corner = T.CropTransform(0, 0, 50, 50)
    with pytest.raises(NoBoxes, match="too few boxes after the augmentations: 1 of at least 2"):
        draw(mapper(augmentations=[corner], least=2), picture)


def test_a_sample_is_a_function_of_epoch_and_index(picture):
    made = mapper(
        augmentations=AUGMENTATIONS, policy="random", count=4, photometric=None, crop_size=16
    )
    first = draw(made, picture, 1)
    np.random.rand(7)
    again, other = draw(made, picture, 1), draw(made, picture, 1, epoch=1)
    for key in ("image", "priors", "crops", "prior_scores"):
        assert torch.equal(first[key], again[key])
    assert first["crops"].shape != other["crops"].shape or not torch.equal(
        first["crops"], other["crops"]
    )


def test_a_pasted_box_is_a_prior_whose_crop_shows_its_source(picture):
    paste = PasteSmallBoxes(count=4, small=0.05, hidden=0.0, tries=50)
    sample = draw(mapper(paste=paste, crop_size=8, count=9), picture, index=2)
    new = sample["priors"][9:]
    assert len(new) >= 1
    for box, score, crop in zip(
        new.long().tolist(), sample["prior_scores"][9:], sample["crops"][9:], strict=True
    ):
        x0, y0, x1, y1 = box
        expected = torch.tensor(colour(which(score)))[:, None, None]
        assert (sample["image"][:, y0:y1, x0:x1] == expected).all()
        assert (crop == expected).all()
