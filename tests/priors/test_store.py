"""A store gives back what was put in, by name and size, and notices every damaged byte."""

import multiprocessing
import pickle
import shutil

import numpy as np
import pytest

from d2_unsupdet.errors import UserError
from d2_unsupdet.priors import PriorStore, StoredBoxes
from d2_unsupdet.priors.found import rank_scores
from d2_unsupdet.priors.merging import shard_name
from d2_unsupdet.priors.names import Key
from d2_unsupdet.priors.shard_file import ShardWriter, piece_digest
from d2_unsupdet.priors.store import GenerationWriter
from d2_unsupdet.seeding import generator

SIZE = (64, 48)


def boxes_of(index, count=None):
    rng = generator("store", index)
    count = int(rng.integers(0, 6)) if count is None else count
    corners = np.sort(rng.random((count, 2, 2)), axis=1).reshape(count, 4)
    return corners.astype(np.float32), rank_scores(count)


def records(root, count=20):
    folders = ("a", "b")
    return [{"file_name": str(root / folders[i % 2] / f"{i // 2}.jpg")} for i in range(count)]


def write(path, root, ranks=1, **settings):
    """The same images spread over `ranks` shards."""
    store = PriorStore(path, root=str(root))
    store.create()
    store.partial(0).mkdir()
    for rank in range(ranks):
        shard = ShardWriter(store.partial(0) / shard_name(rank))
        writer = GenerationWriter(shard, store.root)
        for i in range(rank, 20, ranks):
            writer.add(records(root)[i], *SIZE, *boxes_of(i))
        shard.publish()
    store.publish(0, settings, shards=ranks)
    return store


def test_every_image_gets_its_own_boxes_back(tmp_path):
    store = write(tmp_path / "store", tmp_path / "images")
    generation = store.open()
    assert store.generations == [0] and len(generation) == 20
    for i, record in enumerate(records(tmp_path / "images")):  # same names in folders a and b
        found = generation.lookup(record, *SIZE)
        np.testing.assert_array_equal(found.boxes, boxes_of(i)[0])
        np.testing.assert_array_equal(found.scores, boxes_of(i)[1])
        assert found.kinds is None and found.orders is None
    assert generation.lookup(records(tmp_path / "images")[0], 48, 64) is None  # another size
    assert generation.lookup(str(tmp_path / "images/c/0.jpg"), *SIZE) is None
    assert generation.lookup(str(tmp_path / "elsewhere/a/0.jpg"), *SIZE) is None


def test_the_hash_names_content_and_settings_not_the_sharding(tmp_path):
    one = write(tmp_path / "one", tmp_path / "images").open().sha256
    assert write(tmp_path / "three", tmp_path / "images", ranks=3).open().sha256 == one
    assert write(tmp_path / "other", tmp_path / "images", seed=1).open().sha256 != one
    # the root is no content: the same images elsewhere are the same generation
    assert write(tmp_path / "moved", tmp_path / "moved images").open().sha256 == one


def test_a_store_moves_with_its_images(tmp_path):
    store = write(tmp_path / "store", tmp_path / "images")
    shutil.move(store.path, tmp_path / "there")
    found = StoredBoxes(path=tmp_path / "there", root=str(tmp_path / "new"))
    pixels, record = np.zeros((48, 64, 3), np.uint8), records(tmp_path / "new")[3]
    boxes = found(record, pixels, generator(0)).boxes
    np.testing.assert_allclose(boxes, boxes_of(3)[0] * [64, 48, 64, 48], rtol=1e-6)
    with pytest.raises(UserError, match=r"knows no image .*a/0.jpg.* of 64 x 48 pixels"):
        StoredBoxes(path=tmp_path / "there")(records(tmp_path / "new")[0], pixels, generator(0))


def test_kinds_and_orders_come_back(tmp_path):
    store = PriorStore(tmp_path / "store")
    boxes, scores = boxes_of(0, count=3)
    orders = np.array([[0, 1, 2], [2, 0, 1]])
    with store.write(0, {}, orders=2, kinds=True) as writer:
        writer.add("/x/1.jpg", *SIZE, boxes, scores, np.array([0, 1, 1]), orders)
        writer.add("/x/2.jpg", *SIZE, boxes[:0], scores[:0], np.zeros(0), np.zeros((2, 0)))
    found = store.open().lookup("/x/1.jpg", *SIZE)
    assert found.kinds.tolist() == [0, 1, 1] and found.orders.tolist() == orders.tolist()
    drawn = {tuple(found.drawn(generator(i)).boxes[:, 0]) for i in range(20)}
    assert drawn == {tuple(boxes[order, 0]) for order in orders}
    np.testing.assert_array_equal(found.drawn(generator(0)).scores, scores)  # of the place
    empty = store.open().lookup("/x/2.jpg", *SIZE)
    assert len(empty) == 0 and len(empty.drawn(generator(0))) == 0


def lookup_in_child(generation, record, answers):
    answers.put(len(generation.lookup(record, *SIZE)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_open_generation_crosses_processes(tmp_path, method):
    generation = write(tmp_path / "store", tmp_path / "images").open()
    record = records(tmp_path / "images")[1]
    expected = len(generation.lookup(record, *SIZE))  # its index is open now
    if method == "spawn":
        assert len(pickle.loads(pickle.dumps(generation)).lookup(record, *SIZE)) == expected
        return
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    child = context.Process(target=lookup_in_child, args=(generation, record, answers))
    child.start()
    assert answers.get(timeout=30) == expected
    child.join()


@pytest.mark.parametrize("name", ["shard_00000.bin", "index.bin"])
def test_one_wrong_byte_is_noticed_wherever_it_is(tmp_path, name):
    store = write(tmp_path / "store", tmp_path / "images")
    store.open().verify()
    path = store.folder(0) / name
    whole = path.read_bytes()
    for at in range(0, len(whole), 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(UserError, match="is damaged"):
            store.open().verify()
    path.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=f"{len(whole) - 1} bytes instead of {len(whole)}"):
        store.open().lookup("/x.jpg", *SIZE)


def test_a_wrong_byte_among_the_boxes_is_noticed_without_asking(tmp_path):
    store = write(tmp_path / "store", tmp_path / "images")
    path = store.folder(0) / "shard_00000.bin"
    whole = bytearray(path.read_bytes())
    whole[20] ^= 1  # behind the magic: a box of the first image that has one
    path.write_bytes(whole)
    generation, damaged = store.open(), 0
    for record in records(tmp_path / "images"):
        try:
            generation.lookup(record, *SIZE)
        except UserError as error:
            assert "is damaged (at byte" in str(error)
            damaged += 1
    assert damaged == 1


def test_the_hash_of_a_piece_is_of_its_image_and_its_count():
    """The same bytes under another image's key, or cut into another number of boxes, are wrong."""
    digest = piece_digest(Key(1, 2), 3, b"boxes")
    assert digest == piece_digest(Key(1, 2), 3, b"boxes")
    others = [(Key(2, 2), 3), (Key(1, 1), 3), (Key(2, 1), 3), (Key(1, 2), 4)]
    assert all(piece_digest(*other, b"boxes") != digest for other in others)
    assert piece_digest(Key(1, 2), 3, b"boxez") != digest


def test_a_writer_that_fails_leaves_nothing_to_read(tmp_path):
    store = PriorStore(tmp_path / "store")
    with pytest.raises(RuntimeError), store.write(0, {}) as writer:
        writer.add("/x/1.jpg", *SIZE, *boxes_of(0, 2))
        raise RuntimeError
    assert store.generations == []
    with pytest.raises(UserError, match="holds no published boxes"):
        store.open()
    with store.write(0, {}) as writer:
        writer.add("/x/2.jpg", *SIZE, *boxes_of(0, 2))
    assert store.open().lookup("/x/1.jpg", *SIZE) is None
    assert len(store.open().lookup("/x/2.jpg", *SIZE)) == 2


def test_a_published_generation_is_not_overwritten(tmp_path):
    store = write(tmp_path / "store", tmp_path / "images")
    with pytest.raises(UserError, match="has a generation 0 already"), store.write(0, {}):
        pass
    store.remove(0)
    assert store.generations == [] and not list(store.path.glob("generation*"))


@pytest.mark.parametrize("second, same", [(2, True), (3, False)])
def test_an_image_that_is_listed_twice(tmp_path, second, same):
    def add_twice():
        store = PriorStore(tmp_path / "store")
        with store.write(0, {}) as writer:
            for count in (2, second):
                writer.add("/x/1.jpg", *SIZE, *boxes_of(0, count))
        return store.open()

    if same:
        assert len(add_twice()) == 1
    else:
        with pytest.raises(UserError, match="added twice with different boxes"):
            add_twice()


def test_what_does_not_fit_is_refused(tmp_path):
    boxes, scores = boxes_of(0, 2)
    with (
        pytest.raises(UserError, match=r"scores \(1,\)"),
        PriorStore(tmp_path).write(0, {}) as writer,
    ):
        writer.add("/x/1.jpg", *SIZE, boxes, scores[:1])
    with (
        pytest.raises(UserError, match=r"kinds None"),
        PriorStore(tmp_path).write(0, {}, kinds=True) as writer,
    ):
        writer.add("/x/1.jpg", *SIZE, boxes, scores)


def test_the_environments_roots_name_images_first(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    store = PriorStore(tmp_path / "store")
    with store.write(0, {}) as writer:
        writer.add(str(tmp_path / "data/coco/1.jpg"), *SIZE, *boxes_of(0, 2))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "mirror"))
    assert len(store.open().lookup(str(tmp_path / "mirror/coco/1.jpg"), *SIZE)) == 2
