"""The definition of a run: one process, the plan's order, and nothing begun once it is to stop."""

from __future__ import annotations

import random
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from pipeline.config import Compute, Recipe
from pipeline.errors import StoreError
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.raster import Header
from pipeline.records import Block, Receipt, read_rows
from pipeline.scheduling import BlockQueue, Stage
from pipeline.scheduling.runners import LEASE_BLOCKS, Work
from pipeline.scheduling.runners import serial as module
from pipeline.scheduling.runners.serial import Serial
from tests.oracle.agreeing_runs import NETWORK, SHARED, assert_agree, write_images


def test_any_order_gives_the_same(tmp_path, engine, networks, monkeypatch):
    """Blocks taken in any order, across images, end in the same masks and the same report."""
    write_images(tmp_path)
    network = {**NETWORK, "model": networks["same"]}
    serial = engine(**SHARED, **network, output="serial")
    for seed in range(3):
        shuffle = random.Random(seed).shuffle
        with monkeypatch.context() as patch:
            patch.setattr(BlockQueue, "lease", lambda self, pixels, blocks, shuffle=shuffle: shuffled(self, shuffle))
            assert_agree(serial, engine(**SHARED, **network, output=f"shuffled{seed}"))
        order = [row.block for row in read_rows(serial.folder.parent / f"shuffled{seed}" / "ledger")]
        assert order != [row.block for row in read_rows(serial.folder / "ledger")]


def shuffled(queue, shuffle):
    """Take one of the blocks that are ready, and put the others back."""
    ready = list(iter(partial(queue._ready.take, None), None))
    shuffle(ready)
    queue._ready.put(ready[1:], len(ready[1:]), first=True)
    return ready[:1]


class Line:
    """A run of one image whose blocks are done as it is told: ``causes`` says why a block fails, each time that it is tried."""

    def __init__(self, monkeypatch, count=5, attempts=3, causes=None):
        image = Image(0, "a", "/a.tif", Header((10, 10 * count), 1, "uint8"), {"name": "auto"})
        blocks = [Block("predict", image, 0, 0, at, Box(0, 10 * at, 10, 10 * at + 10)) for at in range(count)]
        self.queue = BlockQueue({"a": [Stage("predict", blocks)]})
        self.queue.begin()
        self.causes = {col: iter(some) for col, some in (causes or {}).items()}
        self.begun, self.committed, self.log, self.held = [], [], [], []
        self.most = self.open = 0
        self.stopping = lambda: False
        self.work = Work(
            SimpleNamespace(recipe=Recipe(block=10)),
            self.queue,
            self.book,
            self._stopping,
            Compute(attempts=attempts),
            lambda line, **_: self.log.append(line),
        )
        monkeypatch.setattr(module, "open_resources", self.open_resources)
        monkeypatch.setattr(module, "process", self.process)

    @contextmanager
    def open_resources(self, job):
        self.open += 1
        yield "resources"
        self.open -= 1

    def process(self, following, resources, *threads):
        assert (resources, threads) == ("resources", Recipe(block=10).io_threads)
        while (block := following()) is not None:
            self.begun.append((block.col, block.attempt))
            cause = next(self.causes.get(block.col, iter(())), "")
            yield Receipt("predict", "a", block.id, attempts=block.attempt + 1, cause=cause, transient=bool(cause))

    def _stopping(self):
        return self.stopping()

    def book(self, block, receipt):
        assert receipt.block == block.id
        self.committed.append((block.col, receipt.attempts, receipt.cause))
        self.queue.settle(receipt)

    def run(self):
        Serial().run(self.work)
        return [col for col, *_ in self.committed]


def test_blocks_are_done_in_the_plans_order(monkeypatch):
    """Every block once, in order, and the model is closed in the end."""
    line = Line(monkeypatch)
    assert line.run() == list(range(5))
    assert line.begun == [(col, 0) for col in range(5)]
    assert line.queue.is_finished
    assert line.open == 0


def test_no_block_begins_once_the_run_is_to_stop(monkeypatch):
    """Blocks in flight are booked, and the others stay to be done."""
    line = Line(monkeypatch)
    line.stopping = lambda: len(line.committed) >= 2
    assert line.run() == [0, 1]
    assert len(line.begun) == 2
    assert not line.queue.is_finished


def test_a_failure_that_may_pass_is_tried_as_often_as_the_yaml_says(monkeypatch):
    """It is tried again at once; a block that still fails at its last try is booked as failed, and the others are done."""
    line = Line(monkeypatch, attempts=3, causes={1: ["drive sleeps"], 3: ["no memory"] * 9})
    line.run()
    assert {col: (attempts, cause) for col, attempts, cause in line.committed} == {
        0: (1, ""),
        1: (2, ""),
        2: (1, ""),
        3: (3, "no memory"),
        4: (1, ""),
    }
    assert line.log == ["try again predict a:0.0.1: drive sleeps", *["try again predict a:0.0.3: no memory"] * 2]


def test_a_receipt_is_checked_before_it_is_booked(monkeypatch):
    """What the run's check turns into a failure is tried again like any other."""
    line, checked = Line(monkeypatch), []

    def check(receipt):
        checked.append(receipt.block)
        return replace(receipt, cause="its file is gone", transient=True) if checked == ["a:0.0.0"] else receipt

    line.work = replace(line.work, check=check)
    line.run()
    assert sorted(line.committed) == [(0, 2, ""), *((col, 1, "") for col in range(1, 5))]
    assert checked.count("a:0.0.0") == 2


def test_a_long_run_is_taken_in_pieces(monkeypatch):
    """No more blocks are held at a time than a lease has, however many there are."""
    line = Line(monkeypatch, count=5 * LEASE_BLOCKS)
    give_out, most = line.queue.lease, []

    def lease(pixels, blocks):
        most.append(blocks)
        return give_out(pixels, blocks)

    monkeypatch.setattr(line.queue, "lease", lease)
    assert line.run() == list(range(5 * LEASE_BLOCKS))
    assert max(most) == LEASE_BLOCKS
    assert len(most) > 5


def test_an_error_ends_the_run_and_closes_the_model(monkeypatch):
    """What the ledger raises reaches the caller, and nothing stays open."""
    line = Line(monkeypatch)

    def fail(block, receipt):
        raise StoreError("disk full")

    closed = []

    @contextmanager
    def open_resources(job):
        try:
            yield "resources"
        finally:
            closed.append(1)

    monkeypatch.setattr(module, "open_resources", open_resources)
    line.work = replace(line.work, book=fail)
    with pytest.raises(StoreError, match="disk full"):
        line.run()
    assert closed == [1]
