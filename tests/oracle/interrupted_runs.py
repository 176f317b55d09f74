"""Runs of two small images that end in the middle, for the tests of what such runs leave and how they go on."""

from __future__ import annotations

import itertools
from contextlib import contextmanager

import numpy as np
import pytest

from pipeline.scheduling.execution import _Execution
from pipeline.scheduling.runners import serial
from tests.conftest import blobs, save_tiff

CLASSES = [{"name": "low", "values": [0]}, {"name": "high", "values": "other"}]
TRACED = {
    "model": {"name": "traced.model"},
    "normalize": None,
    "tiling": {"core": 32, "halo": 4, "block": 32},
    "classes": CLASSES,
    "truth": "truth/{name}.tif",
    "images": ["img/*.tif"],
}
TILES = 12 + 6  # blocks of one tile, of the two images


def write_images(folder):
    """Two images with truth, of 12 and 6 blocks."""
    add_image(folder, "a", (100, 90))
    add_image(folder, "b", (40, 70))


def add_image(folder, name, shape):
    save_tiff(folder / "img" / f"{name}.tif", blobs(shape, seed=ord(name)))
    save_tiff(folder / "truth" / f"{name}.tif", (blobs(shape, seed=9) > 120).astype(np.uint8) * 7)


@contextmanager
def ending_after(count, error):
    """End the run in the middle: after so many receipts, raise, or ask it to stop."""
    booked = []
    book = _Execution.book

    def book_and_end(self, block, receipt):
        book(self, block, receipt)
        booked.append(receipt)
        if len(booked) == count:
            if error is not None:
                raise error
            self.flagged, self.looked = True, float("inf")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Execution, "book", book_and_end)
        yield booked


@contextmanager
def stopping_after(count):
    """Ask a serial run to stop once it has begun so many blocks; those are finished, however far its threads read ahead."""
    runs = []
    book, process = _Execution.book, serial.process

    def book_and_keep(self, block, receipt):
        runs.append(self)
        book(self, block, receipt)

    def limited(feed, *args):
        numbers = itertools.count()

        def next_block():
            if next(numbers) < count:
                return feed()
            runs[-1].flagged, runs[-1].looked = True, float("inf")
            return None

        return process(next_block, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Execution, "book", book_and_keep)
        patch.setattr(serial, "process", limited)
        yield


def assert_same(one, other, names=("a", "b")):
    assert one.report == other.report
    for name in names:
        assert (one.mask(name) == other.mask(name)).all()
