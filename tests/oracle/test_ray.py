"""Serial defines, Ray agrees: any number of actors and any order give the same masks, counts and report."""

from __future__ import annotations

import os

import numpy as np
import pytest

from pipeline.plugins import find
from pipeline.scheduling.runners.ray import authenticate
from pipeline.scheduling.runners.serial import Serial
from tests.conftest import blobs, save_tiff
from tests.oracle.agreeing_runs import HISTOGRAM, NETWORK, SHARED, assert_agree, write_images


@pytest.fixture
def scene(tmp_path):
    """Four images, one of a single block, one without truth, one with holes and a pixel that overflows where it is divided."""
    write_images(tmp_path)
    return tmp_path


def test_ray_agrees_with_serial(scene, engine, ray, networks):
    """One, two or three actors, with thresholds of the whole image or a network that blends: the serial runner's result."""
    serial = engine(**SHARED, **HISTOGRAM, output="serial")
    assert serial.report["mean_iou"] is not None
    assert serial.report["without_truth"] == ["b"]
    for actors in (1, 3):
        compute = {"runner": "ray", "actors": actors}
        assert_agree(serial, engine(**SHARED, **HISTOGRAM, compute=compute, output=f"ray{actors}"))
    network = {**NETWORK, "model": networks["same"], "normalize": {"mean": [128.0], "std": [1.0]}}
    serial = engine(**SHARED, **network, output="serial-network")
    assert serial.report["cross_entropy"] > 0
    assert [one["block"] for one in serial.report["failures"]] == ["d:0.0.0"]
    for attempt in range(5):
        done = engine(**SHARED, **network, compute={"runner": "ray", "actors": 2}, output=f"ray-network{attempt}")
        assert_agree(serial, done)
        if "actor 1 ready" in done.log:
            return
    pytest.fail("the first actor was always done before the second was there")


def test_ray_leaves_the_same_cloud_optimized_files(scene, engine, ray):
    """Where a file takes the place of the blocks, two actors leave the bytes that one process leaves, and no blocks."""
    pytest.importorskip("rasterio")
    keys = {**SHARED, **HISTOGRAM, "writers": [{"name": "cog"}]}
    one, two = engine(**keys, output="serial-cog"), engine(**keys, compute={"runner": "ray", "actors": 2}, output="ray-cog")
    files = [
        {str(path.relative_to(done.folder)): path.read_bytes() for path in (done.folder / "masks").rglob("*.*")} for done in (one, two)
    ]
    assert files[0] == files[1]
    assert not any((done.folder / "parts").exists() for done in (one, two))
    assert one.report == two.report


def test_ray_agrees_on_a_working_grid(scene, engine, ray, networks):
    """Images that are resampled, with their truth: actors read regions of their own and leave the serial runner's masks and counts."""
    keys = {**NETWORK, "model": networks["same"], "resolution": {"scale": 0.7}}
    serial = engine(**SHARED, **keys, output="serial-scaled")
    assert serial.report["mean_iou"] is not None
    done = engine(**SHARED, **keys, compute={"runner": "ray", "actors": 2}, output="ray-scaled")
    assert serial.report == done.report
    assert all(np.array_equal(serial.mask(name), done.mask(name)) for name in "abcd")
    assert serial.mask("a").shape == (105, 148)


def test_a_run_begun_by_one_runner_is_ended_by_another(scene, engine, ray):
    """The runner is no part of a run: what serial began, Ray ends."""
    whole = engine(**SHARED, **HISTOGRAM, output="whole")
    run = Serial.run

    def three_blocks(self, work):
        booked = []

        def book(block, receipt):
            work.book(block, receipt)
            booked.append(receipt)

        from dataclasses import replace

        run(self, replace(work, book=book, stopping=lambda: len(booked) >= 3))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Serial, "run", three_blocks)
        assert engine(**SHARED, **HISTOGRAM).code == 130
    assert_agree(whole, engine(**SHARED, **HISTOGRAM, compute={"runner": "ray", "actors": 2}))


def test_more_actors_than_processors_go_on_with_what_there_is(scene, engine, ray):
    """The others wait for a place, and would get one where a node joins: a run with nine actors on three cores ends as any other."""
    serial = engine(**SHARED, **HISTOGRAM, output="serial")
    assert_agree(serial, engine(**SHARED, **HISTOGRAM, compute={"runner": "ray", "actors": 9}, output="nine"))


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_ray_agrees_with_serial_whatever_computes(tmp_path, engine, ray, networks, backend):
    """Two actors give the masks and the report of one process, with images of several types and sizes."""
    if missing := find("backends", backend).missing():
        pytest.skip(f"not installed: {missing}")
    save_tiff(tmp_path / "img" / "a.tif", blobs((150, 211), seed=1))
    save_tiff(tmp_path / "img" / "b.tif", blobs((90, 70), seed=2, dtype=np.uint16))
    common = {"images": ["img/*.tif"], "model": networks["same"], "normalize": "zscore", "tiling": {"core": 52, "halo": 24, "block": 104}}
    serial = engine(output="serial", compute={"backend": backend}, **common)
    actors = engine(output="ray", compute={"backend": backend, "runner": "ray", "actors": 2}, **common)
    for name in ("a", "b"):
        assert len(np.unique(serial.mask(name))) > 1
        assert np.array_equal(serial.mask(name), actors.mask(name))
    assert serial.report == actors.report


AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")


@pytest.fixture
def unsaid(monkeypatch, tmp_path):
    """An environment that says nothing of authentication, with a home of its own."""
    for name in AUTHENTICATION:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_a_ray_of_our_own_is_nobody_elses(unsaid):
    """Without an address it stays on loopback, and its token is new for each run."""
    tokens = set()
    for _ in range(2):
        unsaid.delenv("RAY_AUTH_MODE", raising=False)
        authenticate(None)
        assert (os.environ["RAY_AUTH_MODE"], os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"]) == ("token", "0")
        tokens.add(os.environ["RAY_AUTH_TOKEN"])
    assert len(tokens) == 2
    assert min(map(len, tokens)) >= 32


@pytest.mark.parametrize(("given", "mode"), [("nothing", "disabled"), ("variable", "token"), ("file", "token"), ("other file", "token")])
def test_a_cluster_that_is_there_gets_the_token_that_there_is(unsaid, tmp_path, given, mode):
    """With an address, the token of the environment or of Ray's file is used; without either, authentication is off, and said to be."""
    if given == "variable":
        unsaid.setenv("RAY_AUTH_TOKEN", "secret")
    elif given == "file":
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("secret")
    elif given == "other file":
        (tmp_path / "token").write_text("secret")
        unsaid.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    authenticate("head:6379")
    assert os.environ["RAY_AUTH_MODE"] == mode
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ


def test_what_the_user_says_stays(unsaid):
    """A mode that is set already is kept, whatever the address."""
    unsaid.setenv("RAY_AUTH_MODE", "disabled")
    authenticate(None)
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert "RAY_AUTH_TOKEN" not in os.environ
