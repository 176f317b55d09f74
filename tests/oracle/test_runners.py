"""Serial defines, Ray agrees: any number of actors and any order give the same masks, counts and report."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pipeline.records import latest, read_rows
from pipeline.scheduling.block_queue import BlockQueue
from pipeline.scheduling.runners.serial import Serial
from tests.conftest import UNET, blobs, save_tiff

OUTPUTS = [{"name": "ome_zarr"}, {"name": "tiff"}]
CLASSES = [{"name": "low", "values": [0]}, {"name": "middle", "values": [1]}, {"name": "high", "values": "other"}]
HISTOGRAM = {"model": {"name": "histogram", "classes": 3}, "normalize": None, "tiling": {"core": 64, "halo": 0, "block": 64}}
NETWORK = {"model": UNET, "normalize": "zscore", "tiling": {"core": 32, "halo": 24, "block": 64, "stitch": "linear"}}
SHARED = {"images": ["img/*.tif"], "truth": "truth/{name}.tif", "classes": CLASSES, "ignore": 9, "writers": OUTPUTS}
NAMES = {"a": (150, 211), "b": (70, 64), "c": (40, 30), "d": (70, 70)}


@pytest.fixture
def scene(tmp_path):
    """Four images, one of a single block, one without truth, one with a hole and a pixel that spoils a block of a network."""
    for name, shape in NAMES.items():
        pixels = blobs(shape, seed=ord(name), dtype=np.float32 if name == "d" else np.uint16)
        if name == "d":
            pixels[60:, :9], pixels[3, 3] = np.nan, np.inf
        save_tiff(tmp_path / "img" / f"{name}.tif", pixels)
        truth = blobs(shape, seed=3) // 86
        truth[5:9, 5:9] = 9
        if name != "b":
            save_tiff(tmp_path / "truth" / f"{name}.tif", truth)
    return tmp_path


@pytest.fixture(scope="module")
def ray():
    """A Ray of three processors that every run joins."""
    from pipeline.scheduling.runners._cluster import STORE_BYTES

    ray = pytest.importorskip("ray")
    ray.init(
        address="local",
        num_cpus=3,
        include_dashboard=False,
        object_store_memory=STORE_BYTES,
        log_to_driver=False,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
    )
    yield ray
    ray.shutdown()


def receipts(done):
    """All that a ledger says but how long it took: a set of rows, and their order does not matter."""
    rows = latest(read_rows(done.folder / "ledger"))
    kept = {}
    for key, row in rows.items():
        content = row.to_json()
        kept[key] = {name: value for name, value in content.items() if name not in ("seconds", "peak_bytes", "files")}
        kept[key]["files"] = set(row.files)
    return kept


def assert_agree(one, other):
    import tifffile

    assert one.code == other.code
    for name, shape in NAMES.items():
        assert one.mask(name).shape == shape
        assert len(np.unique(one.mask(name))) > 1
        assert (one.mask(name) == other.mask(name)).all()
        exports = [tifffile.imread(done.folder / "masks" / f"{name}.tif") for done in (one, other)]
        assert (exports[0] == one.mask(name)).all()
        assert (exports[1] == one.mask(name)).all()
    assert one.report == other.report
    assert receipts(one) == receipts(other)


def test_ray_agrees_with_serial(scene, engine, ray, networks):
    """One, two or three actors, with thresholds of the whole image or a network that blends: the serial runner's result."""
    serial = engine(**SHARED, **HISTOGRAM, output="serial")
    assert serial.report["mean_iou"] is not None
    assert serial.report["without_truth"] == ["b"]
    for actors in (1, 3):
        compute = {"runner": "ray", "actors": actors}
        assert_agree(serial, engine(**SHARED, **HISTOGRAM, compute=compute, output=f"ray{actors}"))
    network = {**NETWORK, "model": networks["same"]}
    serial = engine(**SHARED, **network, output="serial-network")
    assert serial.report["cross_entropy"] > 0
    assert [one["block"] for one in serial.report["failures"]] == ["d:0.0.0"]
    for attempt in range(5):
        done = engine(**SHARED, **network, compute={"runner": "ray", "actors": 2}, output=f"ray-network{attempt}")
        assert_agree(serial, done)
        if "actor 1 ready" in done.log:
            return
    pytest.fail("the first actor was always done before the second was there")


def test_any_order_gives_the_same(scene, engine, networks, monkeypatch):
    """Blocks taken in any order, across images, end in the same masks and the same report."""
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
    shuffle(queue._ready)
    return [queue._ready.popleft()] if queue._ready else []


def test_a_run_begun_by_one_runner_is_ended_by_another(scene, engine, ray):
    """The runner is no part of a run: what serial began, Ray ends."""
    whole = engine(**SHARED, **HISTOGRAM, output="whole")
    run = Serial.run

    def three_blocks(self, work):
        booked = []

        def commit(block, receipt):
            work.commit(block, receipt)
            booked.append(receipt)

        from dataclasses import replace

        run(self, replace(work, commit=commit, stopping=lambda: len(booked) >= 3))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Serial, "run", three_blocks)
        assert engine(**SHARED, **HISTOGRAM).code == 130
    assert_agree(whole, engine(**SHARED, **HISTOGRAM, compute={"runner": "ray", "actors": 2}))


def test_more_actors_than_processors_are_refused(scene, engine, ray):
    """Ray would wait for ever: the message names what there is and what to write."""
    from pipeline.errors import InputError

    with pytest.raises(
        InputError, match=r"compute.actors: found 9 of 1 CPU each; expected 3, as the cluster has 3 CPU. Use compute.actors: 3"
    ):
        engine(**SHARED, **HISTOGRAM, compute={"runner": "ray", "actors": 9})
