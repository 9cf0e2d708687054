"""Extraction: killed, shared between processes, with bad files; nothing is lost or done twice."""

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from d2_unsupdet.errors import UserError
from d2_unsupdet.priors import Found, PriorStore, RandomBoxes
from d2_unsupdet.priors.extraction import describe, extract
from d2_unsupdet.priors.job import Job

IMAGES = 60


class Journal:
    """Random boxes that write down each image they look at, and take their time."""

    def __init__(self, path, seconds=0.0):
        self.path, self.seconds, self.boxes = path, seconds, RandomBoxes(count=5)

    def __call__(self, record, pixels, rng):
        time.sleep(self.seconds)
        with open(self.path, "a") as file:  # one short line: an append of it is atomic
            file.write(record["file_name"] + "\n")
        return self.boxes(record, pixels, rng)


def looked_at(path):
    return Counter(path.read_text().split()) if path.exists() else Counter()


@pytest.fixture(autouse=True)
def _no_threads_of_opencv():
    cv2.setNumThreads(1)  # a forked process cannot end those it inherits


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for i in range(IMAGES):  # the same names in two folders
        path = root / "ab"[i % 2] / f"{i // 2:03d}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (20 + i % 7, 24, 3), np.uint8)
        cv2.imwrite(str(path), pixels)
    return root


def make_job(images, store, **changes):
    names = sorted(str(path) for path in images.glob("*/*.png"))
    records = [{"file_name": name} for name in names]
    values = {"records": records, "settings": {"source": "test"}, "shard_size": 7, **changes}
    return Job(store=PriorStore(store, root=str(images)), generation=0, **values)


def run(images, store, journal, seconds=0.0, **changes):
    job = make_job(images, store)
    return extract(job, partial(Journal, journal, seconds), progress=False, **changes)


@pytest.fixture(scope="session")
def undisturbed(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return run(images, folder / "store", folder / "journal").sha256


def test_each_image_is_looked_at_once_and_found_again(images, tmp_path):
    generation = run(images, tmp_path / "store", tmp_path / "journal")
    assert len(generation) == IMAGES and set(looked_at(tmp_path / "journal").values()) == {1}
    record = {"file_name": str(images / "a/003.png")}
    pixels = cv2.imread(record["file_name"])
    height, width = pixels.shape[:2]
    other = generation.lookup(str(images / "b/003.png"), 24, 20)
    assert len(generation.lookup(record, width, height)) == 5
    assert other is None or (other.boxes != generation.lookup(record, width, height).boxes).any()
    generation.verify()
    left = sorted(path.name for path in generation.folder.iterdir())
    assert [name for name in left if not name.startswith("shard_")] == [
        "files.json",
        "index.bin",
        "job.json",
        "manifest.json",
    ]


@pytest.mark.parametrize("processes", [1, 3])
def test_any_number_of_processes_gives_the_same(images, undisturbed, tmp_path, processes):
    generation = run(images, tmp_path / "store", tmp_path / "journal", processes=processes)
    assert generation.sha256 == undisturbed
    assert looked_at(tmp_path / "journal").total() == IMAGES


def in_own_group(images, store, journal, processes):
    os.setsid()
    run(images, store, journal, seconds=0.01, processes=processes, wait=True)


def start(images, store, journal, processes):
    """A run in a process group of its own, as a shell starts one."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=in_own_group, args=(images, store, journal, processes))
    process.start()
    return process


def ended(process):
    process.join(timeout=120)
    return process.exitcode


def published(store):
    return {path.name for path in Path(store).glob("generation_0000*/shard_*.bin")}


def test_killed_at_random_moments_it_ends_in_the_same_hash(images, undisturbed, tmp_path):
    """The whole group is killed once, the parent alone another time; then it runs to its end."""
    store, journal, draw = tmp_path / "store", tmp_path / "journal", random.Random(0)
    shards, kept = dict.fromkeys((f"shard_{i:05d}.bin" for i in range(9)), 0), []
    for group in (True, False):
        process = start(images, store, journal, 2)
        before = looked_at(journal).total()
        while looked_at(journal).total() < before + 5 and process.is_alive():
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.1))
        kept.append(published(store))
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.join()
        time.sleep(0.3)  # children without their parent end at their next image
    assert not (store / "generation_0000").exists()
    safe = published(store)
    assert kept[0] <= kept[1] <= safe < shards.keys()
    done_before = looked_at(journal)
    assert ended(start(images, store, journal, 2)) == 0
    generation = PriorStore(store, root=str(images)).open()
    assert generation.sha256 == undisturbed and len(generation) == IMAGES
    generation.verify()
    again, names = looked_at(journal) - done_before, sorted(str(p) for p in images.glob("*/*.png"))
    for shard in range(9):  # what was published is not done again, all else once more
        times = [again[name] for name in names[shard * 7 : shard * 7 + 7]]
        assert set(times) == ({0} if f"shard_{shard:05d}.bin" in safe else {1})


def test_two_runs_at_once_share_the_work(images, undisturbed, tmp_path):
    store, journal = tmp_path / "store", tmp_path / "journal"
    runs = [start(images, store, journal, n) for n in (0, 2)]
    assert [ended(process) for process in runs] == [0, 0]
    assert PriorStore(store).open().sha256 == undisturbed
    counts = looked_at(journal)
    assert len(counts) == IMAGES and counts.total() == IMAGES


def hold(path, ready):
    from d2_unsupdet.priors.claims import claim

    with claim(path) as owned:
        assert owned
        ready.set()
        time.sleep(60)


def test_a_claim_ends_with_its_owner_and_others_do_not_wait_for_it(images, tmp_path, undisturbed):
    job = make_job(images, tmp_path / "store")
    job.open()
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    owner = context.Process(target=hold, args=(job.folder / "claims" / "00002.lock", ready))
    owner.start()
    assert ready.wait(20)
    assert run(images, tmp_path / "store", tmp_path / "journal") is None
    assert job.missing() == [2] and not job.is_claimable()
    owner.kill()
    owner.join()
    assert job.is_claimable()
    generation = run(images, tmp_path / "store", tmp_path / "journal")
    assert generation.sha256 == undisturbed
    assert set(looked_at(tmp_path / "journal").values()) == {1}


def test_a_killed_merge_is_repeated(images, tmp_path, undisturbed, monkeypatch):
    store = tmp_path / "store"

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("d2_unsupdet.priors.store.os.rename", killed)
    with pytest.raises(KeyboardInterrupt):
        run(images, store, tmp_path / "journal")
    assert PriorStore(store).generations == []
    monkeypatch.undo()
    assert run(images, store, tmp_path / "journal").sha256 == undisturbed
    assert looked_at(tmp_path / "journal").total() == IMAGES


def test_files_that_cannot_be_read_are_counted_named_and_empty(images, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/text.jpg").write_text("no image")
    whole = (images / "a/000.png").read_bytes()
    (tmp_path / "images/cut.png").write_bytes(whole[:200])
    (tmp_path / "images/good.png").write_bytes(whole)
    names = [str(tmp_path / "images" / n) for n in ("cut.png", "good.png", "none.png", "text.jpg")]
    records = [{"file_name": name, "width": 24, "height": 20} for name in names]
    job = Job(
        store=PriorStore(tmp_path / "store", root=str(tmp_path / "images")),
        generation=0,
        records=records,
        settings={},
    )
    generation = extract(job, RandomBoxes, progress=False)
    assert [name for name, _ in generation.manifest["bad"]] == ["cut.png", "none.png", "text.jpg"]
    assert [len(generation.lookup(record)) for record in records] == [0, 10, 0, 0]
    assert "3 files cannot be read" in describe(generation) and "no such file" in describe(
        generation
    )


class NoBoxes:
    def __call__(self, record, pixels, rng):
        return Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


def test_images_without_boxes_are_entries(images, tmp_path):
    generation = extract(make_job(images, tmp_path), NoBoxes, progress=False)
    assert len(generation) == IMAGES and generation.manifest["boxes"] == 0
    found = generation.lookup(str(images / "a/000.png"), 24, 20)
    assert found is not None and len(found) == 0


def test_orders_are_stored_for_each_image(images, tmp_path):
    from d2_unsupdet.priors import SelectiveSearch

    job = make_job(images, tmp_path, shard_size=4)
    job = make_job(images, tmp_path, records=job.records[:6])
    generation = extract(job, partial(SelectiveSearch, orders=3, size=32), progress=False)
    found = [generation.read(row) for row in range(6)]
    assert all(len(one.orders) == 3 and len(one) for one in found)


def test_other_settings_do_not_mix_with_what_was_begun(images, tmp_path):
    make_job(images, tmp_path).open()
    said = "otherwise: source .* there, 'other' asked for; seed 0 there, 1 asked for; give another"
    with pytest.raises(UserError, match=said):
        make_job(images, tmp_path, seed=1, settings={"source": "other"}).open()
    with pytest.raises(UserError, match="images .*, 1 asked for; the images have other"):
        make_job(images, tmp_path, records=[{"file_name": "x.jpg"}]).open()


def test_other_settings_do_not_pass_for_what_is_published(images, tmp_path):
    first = extract(make_job(images, tmp_path), NoBoxes, progress=False)
    assert extract(make_job(images, tmp_path), NoBoxes, progress=False).sha256 == first.sha256
    with pytest.raises(UserError, match="0000 was made otherwise: seed 0 there, 1 asked"):
        extract(make_job(images, tmp_path, seed=1), NoBoxes, progress=False)


class Broken:
    def __call__(self, record, pixels, rng):
        if os.environ.get("BROKEN") == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise UserError("the model file is missing")


@pytest.mark.parametrize(
    "kind, text", [("error", "the model file is missing"), ("kill", "killed by signal 9")]
)
def test_what_ends_a_process_is_said(images, tmp_path, monkeypatch, kind, text):
    monkeypatch.setenv("BROKEN", kind)
    with pytest.raises(UserError, match=text):
        extract(make_job(images, tmp_path), Broken, processes=2, progress=False)
    assert not list((tmp_path / "generation_0000.partial").glob("*.bin"))
