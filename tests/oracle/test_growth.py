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
from pipeline.scheduling import BlockQueue, Stage
from pipeline.scheduling.plan import Blocks
from pipeline.tiling import Grid
from tests.conftest import blobs, engine_yaml, save_tiff
from workflows.plan import plan

STUB = {"model": {"name": "tests.benchmarks.stub"}, "normalize": None, "tiling": {"core": 16, "halo": 0, "block": 16}}
MOST_OPENED, MOST_LOOKED = 8, 60  # for an image, in a plan
MOST_QUEUE_BYTES = 250  # for a block that waits

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
    """The queue makes blocks when they are taken: 20,000 more that wait cost at most 250 bytes each."""
    sizes = []
    for number in (1000, 21_000):
        shape = (16, 16 * number)
        image = Image(0, "a", "/a", Header(shape, 1, "uint8"), {"name": "auto"})
        gc.collect()
        tracemalloc.start()
        queue = BlockQueue({"a": [Stage("predict", Blocks("predict", image, Grid(shape, 16, 0, 16), "key"))]})
        queue.begin({})
        assert (queue.num_ready, len(queue.lease(10**9, 5))) == (number, 5)
        sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        del queue
    assert (sizes[1] - sizes[0]) / 20_000 <= MOST_QUEUE_BYTES
