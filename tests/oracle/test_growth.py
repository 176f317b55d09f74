"""What one more image or block costs is the same, however many there are: files that are opened, looked at, and memory."""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.inputs import Image
from pipeline.raster import Header
from pipeline.records import Blocks, ledger
from pipeline.scheduling import BlockQueue, Stage, audit, execute
from pipeline.tiling import Grid
from tests.benchmarks.many_blocks import empty_run, report_again
from tests.conftest import blobs, engine_yaml, save_tiff
from workflows.plan import plan

STUB = {"model": {"name": "tests.benchmarks.stub"}, "normalize": None, "tiling": {"core": 16, "halo": 0, "block": 16}}
MOST_OPENED, MOST_LOOKED = 8, 60  # for an image, in a plan
MOST_QUEUE_BYTES = 50  # for a block that waits
MOST_DRIVER_BYTES = 150  # for a block of a run, at the peak

calls = {"open": 0, "look": 0}


def _count_opened(event, _):
    calls["open"] += event == "open"


sys.addaudithook(_count_opened)


@pytest.fixture
def counted(monkeypatch):
    """Count the files that are opened and looked at inside a ``with`` block."""

    def looking(real):
        def look(*args, **options):
            calls["look"] += 1
            return real(*args, **options)

        return look

    for name in ("stat", "lstat"):
        monkeypatch.setattr(os, name, looking(getattr(os, name)))

    @contextmanager
    def go():
        calls.update(dict.fromkeys(calls, 0))
        made = {}
        yield made
        made.update(calls)

    return go


def test_a_plan_opens_as_many_files_for_each_image(tmp_path, counted, capsys):
    """Twice the images are twice the files that are opened and looked at; nothing is read once for each pair."""
    found = []
    for number in (5, 20, 40, 80):  # the first plan imports modules
        for index in range(number):
            save_tiff(tmp_path / "s" / f"{index}.tif", blobs((16, 16), seed=index))
        with counted() as made:
            plan(engine_yaml(tmp_path, images=["s"], **STUB))
        found.append(dict(made))
    capsys.readouterr()
    for what, most in (("open", MOST_OPENED), ("look", MOST_LOOKED)):
        more, even_more = found[2][what] - found[1][what], found[3][what] - found[2][what]
        assert more / 20 <= most
        assert even_more == pytest.approx(2 * more, rel=0.1)


def test_resuming_looks_at_each_file_once(tmp_path, engine, counted):
    """A resumed run looks once at what a block wrote, whatever the number of blocks, and opens none of it but the last ones."""
    found = []
    for side in (256, 512):
        save_tiff(tmp_path / f"{side}.tif", blobs((side, side)))
        engine(images=[f"{side}.tif"], output=f"out{side}", **STUB)
        with counted() as made:
            engine(images=[f"{side}.tif"], output=f"out{side}", **STUB)
        found.append(dict(made))
    more_blocks = (512**2 - 256**2) // 16**2
    assert (found[1]["look"] - found[0]["look"]) / more_blocks < 1.5
    assert (found[1]["open"] - found[0]["open"]) / more_blocks < 0.5
    assert Path(tmp_path / "out512").is_dir()


def test_a_waiting_block_takes_few_bytes():
    """The queue makes blocks when they are taken: 20,000 more that wait cost at most 50 bytes each."""
    sizes = []
    for number in (1000, 21_000):
        shape = (16, 16 * number)
        image = Image(0, "a", "/a", Header(shape, 1, "uint8"), {"name": "auto"})
        gc.collect()
        tracemalloc.start()
        queue = BlockQueue({"a": [Stage("predict", Blocks("predict", image, Grid(shape, 16, 0, 16), "key"))]})
        queue.begin()
        assert (queue.num_ready, len(queue.lease(10**9, 5))) == (number, 5)
        sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        del queue
    assert (sizes[1] - sizes[0]) / 20_000 <= MOST_QUEUE_BYTES


def test_the_driver_keeps_few_bytes_of_a_block(tmp_path, monkeypatch):
    """While a run goes on, when it is resumed and when it is reported, 5,000 blocks more cost at most 150 bytes each."""
    # What is held of any number of blocks is made small: rows that wait to be committed, and rows that are read at once.
    for module, name, value in ((ledger, "COMMIT_S", 0.02), (ledger, "PIECE_BYTES", 4096), (audit, "ROWS_A_TIME", 100)):
        monkeypatch.setattr(module, name, value)
    peaks = []
    for number in (500, 1000, 6000):  # the first run imports modules
        spec, some = empty_run(tmp_path / str(number), number), []
        for work in (execute, execute, report_again):
            gc.collect()
            tracemalloc.start()
            work(spec)
            some.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        peaks.append(some)
    bytes_of_block = [(most - few) / 5000 for few, most in zip(*peaks[1:], strict=True)]
    assert max(bytes_of_block) <= MOST_DRIVER_BYTES, bytes_of_block
