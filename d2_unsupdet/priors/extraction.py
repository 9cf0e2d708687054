"""Boxes of a whole data set: processes that claim shards until none is left, then one merges.

The same function serves one process, N processes, the ranks of `torchrun` and the tasks of a Slurm
array, since they only meet on disk. The result does not depend on who computed what.
"""

import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from d2_unsupdet.data.images import BadImage, read_image
from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.found import BoxSource, nothing
from d2_unsupdet.priors.generation import Generation
from d2_unsupdet.priors.job import Job
from d2_unsupdet.priors.names import image_name, make_key
from d2_unsupdet.priors.shard_file import ShardWriter
from d2_unsupdet.seeding import generator

log = logging.getLogger(__name__)

POLL = 0.2  # seconds between two looks at what others have done
Build = Callable[[], BoxSource]


def extract(
    job: Job, build: Build, *, processes: int = 0, wait: bool = False, progress: bool = True
) -> Generation | None:
    """Do all of a job that nobody else does, and publish it if nothing is missing then.

    Args:
        job: what, and where.
        build: makes the box source, in each process anew.
        processes: 0 = in this one.
        wait: do not return before the generation is published; takes over what others leave.
        progress: draw a bar.
    """
    job.open()
    with tqdm(
        total=len(job.records),
        initial=job.images_done(),
        unit="image",
        mininterval=1,
        disable=not progress,
    ) as bar:
        while not job.is_published():
            if job.is_claimable():
                _run(job, build, processes, bar)
            if not job.missing():
                job.publish()
            elif not wait and not job.is_claimable() and not job.is_published():
                log.info("%s: others are still at work; the last one publishes.", job.folder)
                return None
            if not job.is_published():
                time.sleep(POLL)
                _show(bar, job.images_done())
        _show(bar, len(job.records))
    return job.store.open(job.generation)


def work(job: Job, build: Build, tell: Callable[[], object], *, first: int = 0) -> None:
    """Claim and compute shards until none is free.

    Args:
        job: what, and where.
        build: makes the box source, once a shard is claimed.
        tell: called after each image.
        first: where to begin looking, so that many processes do not try the same claims.
    """
    source: BoxSource | None = None
    missing = job.missing()
    start = first % max(len(missing), 1)
    for shard in missing[start:] + missing[:start]:
        with job.claim(shard) as free:
            if not free:
                continue
            source = source or build()
            compute(job, shard, source, tell)


def compute(job: Job, shard: int, source: BoxSource, tell: Callable[[], object]) -> None:
    """All images of one shard; a file that cannot be read is named and has no boxes."""
    orders = getattr(source, "orders", 1)
    orders = orders if orders > 1 else 0
    kinds = bool(getattr(source, "kinds", False))
    writer = ShardWriter(job.path(shard), orders=orders, kinds=kinds)
    try:
        for record in job.shard_records(shard):
            _add(job, record, source, writer)
            tell()
        writer.publish()
    except BaseException:
        writer.drop()
        raise


def _add(job: Job, record: Mapping[str, Any], source: BoxSource, writer: ShardWriter) -> None:
    name = image_name(record, job.store.root)
    try:
        pixels = read_image(record["file_name"])
    except BadImage as error:
        writer.bad.append((name, error.reason))
        size = record.get("width") or 0, record.get("height") or 0
        empty = nothing(writer.orders or None, kinds=writer.kinds)
        writer.add(make_key(name, *size), empty)
        return
    height, width = pixels.shape[:2]
    found = source(record, pixels, generator("priors", job.seed, name))
    normalised = found.scaled(1 / width, 1 / height)
    np.clip(normalised.boxes, 0, 1, out=normalised.boxes)
    writer.add(make_key(name, width, height), normalised)


def _run(job: Job, build: Build, processes: int, bar: tqdm) -> None:
    if processes == 0:
        work(job, build, lambda: bar.update())
        return
    # A forked child has the records already; a million of them are slow to send.
    method = "fork" if sys.platform.startswith("linux") else "spawn"
    context: Any = multiprocessing.get_context(method)
    done, said, start = context.Value("q", 0), context.Queue(), bar.n
    arguments = (job, build, done, said, os.getpid())
    count = min(processes, len(job.missing()))
    children = [
        context.Process(target=_child, args=(*arguments, i * job.shards // count), daemon=True)
        for i in range(count)
    ]
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # before the fork: a child that inherits OpenCV's threads cannot end them
    for child in children:
        child.start()
    cv2.setNumThreads(threads)
    while any(child.is_alive() for child in children):
        time.sleep(POLL)
        _show(bar, max(start + done.value, job.images_done()))
    _check(children, said)


def _child(job: Job, build: Build, done: Any, said: Any, parent: int, first: int) -> None:
    cv2.setNumThreads(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)

    def tell() -> None:
        with done.get_lock():
            done.value += 1
        if os.getppid() != parent:  # it was killed, and nobody waits for this
            os._exit(1)

    try:
        work(job, build, tell, first=first)
    except UserError as error:
        said.put(str(error))
        said.close()
        said.join_thread()
        sys.exit(2)


def _check(children: list[Any], said: Any) -> None:
    codes = [child.exitcode for child in children]
    if 2 in codes:
        raise UserError(said.get(timeout=10))
    failed = [code for code in codes if code]
    if failed:
        reason = f"killed by signal {-failed[0]}" if failed[0] < 0 else f"exit code {failed[0]}"
        raise UserError(
            f"{len(failed)} of {len(codes)} processes died ({reason}; 9 is often a lack of "
            "memory); what is published stays, repeat the command to go on."
        )


def _show(bar: tqdm, images: int) -> None:
    bar.update(max(0, images - bar.n))


def describe(generation: Generation) -> str:
    """What was found, for people: images, boxes and the files that could not be read."""
    manifest = generation.manifest
    bad = manifest["bad"]
    text = (
        f"{Path(generation.folder)}: {manifest['images']:,} images, {manifest['boxes']:,} boxes, "
        f"sha256 {generation.sha256[:16]}"
    )
    if bad:
        shown = "; ".join(f"{name}: {reason}" for name, reason in bad[:5])
        text += f"\n{len(bad):,} files cannot be read and have no boxes: {shown}"
        text += " ..." if len(bad) > 5 else ""
    return text
