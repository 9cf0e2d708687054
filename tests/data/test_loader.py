"""Batches across the worker boundary: few descriptors, the same samples, test sets in order."""

import resource

import numpy as np
import pytest
import torch

from d2_unsupdet.data.images import BadImage
from d2_unsupdet.data.loader import build_test_loader, build_train_loader, pack, unpack
from d2_unsupdet.data.plan import Position
from d2_unsupdet.errors import UserError

RECORDS = [{"file_name": f"{i}.jpg", "image_id": i} for i in range(40)]


def mapper(record):
    if record["image_id"] == 7:
        raise BadImage(record["file_name"], "zero bytes")
    views = torch.full((2, 3, 8, 8), record["image_id"], dtype=torch.uint8)
    return {**record, "views": views, "valid": True, "noise": torch.from_numpy(np.random.rand(3))}


def test_pack_and_unpack_are_inverse():
    samples = [{"a": torch.tensor([i]), "b": torch.zeros(i), "c": i} for i in range(3)]
    back = unpack(pack(samples))
    assert [sorted(s) for s in back] == [["a", "b", "c"]] * 3
    for one, other in zip(samples, back, strict=True):
        assert torch.equal(one["a"], other["a"]) and torch.equal(one["b"], other["b"])


def test_samples_of_different_shapes_cross_as_one_tensor_of_each_name():
    shapes = [(3, 4, 5), (0, 4), (), (2, 7)]
    samples = [
        {"image": torch.rand(shape), "crops": torch.full((i, 3, 2, 2), i, dtype=torch.uint8)}
        for i, shape in enumerate(shapes)
    ]
    samples.append({"image": torch.rand(1, 1), "crops": torch.zeros(0, 3, 2, 2).byte()})
    joined, rest = pack(samples)
    assert len(joined) == 2 and rest == [{}] * 5
    for one, other in zip(samples, unpack((joined, rest)), strict=True):
        for key in one:
            assert one[key].shape == other[key].shape and torch.equal(one[key], other[key])


def test_a_field_that_not_every_sample_has_stays_with_its_sample():
    mixed = [{"a": torch.zeros(1), "b": torch.zeros(1)}, {"a": torch.zeros(2)}]
    back = unpack(pack(mixed))
    assert [sorted(sample) for sample in back] == [["a", "b"], ["a"]]
    types = unpack(pack([{"a": torch.zeros(1)}, {"a": torch.zeros(1, dtype=torch.long)}]))
    assert [sample["a"].dtype for sample in types] == [torch.float32, torch.int64]


def test_a_large_batch_fits_the_usual_limit_of_open_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        loader = build_train_loader(
            dataset=RECORDS, mapper=mapper, total_batch_size=256, num_workers=2
        )
        batches = loader.from_step(0)
        kept = [next(batches) for _ in range(4)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert all(len(batch) == 256 for batch in kept)
    for sample in kept[3]:
        assert sample["views"].eq(sample["image_id"]).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_any_step_and_worker_count_gives_the_same_samples(workers):
    def batches(start, workers):
        loader = build_train_loader(
            dataset=RECORDS, mapper=mapper, total_batch_size=6, num_workers=workers, seed=3
        )
        stream = loader.from_step(start)
        return [next(stream) for _ in range(3)]

    for one, other in zip(batches(0, 0)[2], batches(2, workers)[0], strict=True):
        assert one["image_id"] == other["image_id"] and torch.equal(one["noise"], other["noise"])


def test_a_bad_image_is_replaced_by_the_next_and_named():
    loader = build_train_loader(dataset=RECORDS, mapper=mapper, total_batch_size=4)
    sample = loader.dataset[Position(0, 7)]
    assert sample["image_id"] == 8 and sample["bad_files"] == ("7.jpg: zero bytes",)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_test_set_is_read_once_in_order_without_its_bad_image(batch_size):
    loader = build_test_loader(dataset=RECORDS, mapper=mapper, batch_size=batch_size, num_workers=0)
    ids = [sample["image_id"] for batch in loader for sample in batch]
    assert ids == [i for i in range(40) if i != 7]


def labelled(count, classes_of):
    return [
        {**RECORDS[i], "image_id": 100 + i,
         "annotations": [{"category_id": c} for c in classes_of(i)]}
        for i in range(count)
    ]  # fmt: skip


def test_images_of_rare_classes_come_oftener_and_each_time_otherwise():
    # Class 1 is in one image of 40: below 0.4 it is shown sqrt(0.4 / 0.025) = 4 times as often.
    dataset = labelled(40, lambda i: [0] if i else [0, 1])
    loader = build_train_loader(
        dataset=dataset, mapper=mapper, total_batch_size=40, num_workers=0, repeat_threshold=0.4
    )
    batches = loader.from_step(0)
    rare = [[s for s in next(batches) if s["index"] == 0] for _ in range(30)]
    # 4 of the 43 shares of an epoch of 40: 3.7 times.
    assert {len(found) for found in rare} == {3, 4}
    assert np.mean([len(found) for found in rare]) == pytest.approx(160 / 43, abs=0.25)
    first, second = rare[0][:2]
    assert not torch.equal(first["noise"], second["noise"])
    assert sorted(s.get("copy", 0) for s in rare[0]) == list(range(len(rare[0])))
    for sample in rare[0]:  # found again by its place
        place = Position(sample["epoch"], sample["index"], sample.get("copy", 0))
        assert torch.equal(loader.dataset[place]["noise"], sample["noise"])


def test_a_repeat_threshold_needs_labels():
    with pytest.raises(UserError, match="repeat_threshold=0.1 counts classes, but the images"):
        build_train_loader(dataset=RECORDS, mapper=mapper, total_batch_size=4, repeat_threshold=0.1)
