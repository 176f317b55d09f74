"""Batches are the same whoever loads them, and however many workers share them."""

from __future__ import annotations

import itertools
import signal
from contextlib import closing

import numpy as np
import pytest

from pipeline.errors import GigasegError
from pipeline.training.batch_loading import load_batches
from pipeline.training.crops import Crops, ImageCache
from pipeline.training.worker_group import WorkerGroup
from tests.training.scene import planned


def test_workers_share_a_batch_and_steps_go_on(mine):
    """The shares of all workers are the crops of the whole batch, and a resumed training sees what it would have seen."""
    crops = Crops(planned(mine, batch=5), ImageCache(2**28))

    def first(step, rank, size):
        batches = load_batches(crops, WorkerGroup(rank, size), step)
        try:
            return next(batches)
        finally:
            batches.close()

    whole, parts = first(3, 0, 1), [first(3, rank, 2) for rank in (0, 1)]
    assert sorted(whole.where) == sorted([*parts[0].where, *parts[1].where])
    stream = load_batches(crops, WorkerGroup(), 2)
    next(stream)
    following = next(stream)
    stream.close()
    np.testing.assert_array_equal(following.pixels_BCYX, whole.pixels_BCYX)
    assert following.where == whole.where


def test_processes_load_what_a_thread_loads(mine):
    """Two loading processes give the batches of one thread, in order; one that cannot read says which image; no signal handler stays."""
    handler = signal.getsignal(signal.SIGCHLD)
    crops = Crops(planned(mine, batch=3), ImageCache(2**28))
    two = WorkerGroup(loaders=2)
    with closing(load_batches(crops, WorkerGroup(), 1)) as thread, closing(load_batches(crops, two, 1)) as processes:
        for wanted, found in itertools.islice(zip(thread, processes, strict=True), 5):
            np.testing.assert_array_equal(found.pixels_BCYX, wanted.pixels_BCYX)
            np.testing.assert_array_equal(found.target_BYX, wanted.target_BYX)
            assert found.where == wanted.where
    assert signal.getsignal(signal.SIGCHLD) == handler
    for path in (mine / "images").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with closing(load_batches(Crops(crops.plan, ImageCache(2**28)), two)) as processes, pytest.raises(GigasegError, match="images"):
        next(processes)
