"""A process of an earlier run that still lives writes late: nothing of it lands in the folder of the later run."""

from __future__ import annotations

import time

import pytest

from tests.faults.scene import CORE, Scene, assert_same, has_rows, left_in, log_of, run, started, wait_for

OLD, NEW = ({"name": "tests.cluster.steady", "parity": parity} for parity in (0, 1))  # of opposite classes


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Two images, and what an undisturbed run of the new model leaves, in which no pixel is as the old one has it."""
    made = Scene(tmp_path_factory.mktemp("late"), images=2, tiling={"core": CORE, "block": CORE, "halo": 1})
    for name, model in (("old", OLD), ("new", NEW)):
        ended = run(made.yaml(name, model=model))
        assert ended.code == 0, ended.told
    return made


def assert_new(scene, output):
    assert_same(output, left_in(scene.root / "new"))


def in_the_middle(process):
    """Wait until a process sleeps in a block, and stop it there: it uses no processor for a while."""
    while True:
        before = sum(process.cpu_times()[:2])
        time.sleep(0.3)
        process.suspend()
        if sum(process.cpu_times()[:2]) - before < 0.02:
            return
        process.resume()


def test_a_stopped_driver_that_wakes_after_a_fresh_run_writes_nothing(scene):
    """A driver is stopped in the middle of a block, a `--fresh` run of another model ends, the first one goes on: no old pixel lands."""
    folder = scene.root / "stopped"
    with started("run", scene.yaml("stopped", model={**OLD, "seconds": 1.0})) as first:
        wait_for(has_rows(first, folder, 2), "blocks")
        in_the_middle(first.process)
        ended = run(scene.yaml("stopped", model=NEW), "--fresh", "--take-over")
        assert ended.code == 0, ended.told
        assert_new(scene, folder)
        log = log_of(folder)
        first.process.resume()
        ended = first.wait(30)
        assert ended.code == 1, ended.told
        assert "taken over" in ended.told
        assert "Traceback" not in ended.told
    assert_new(scene, folder)
    assert log_of(folder) == log
    assert run(scene.yaml("stopped", model=NEW)).code == 0


def test_a_stopped_driver_that_wakes_in_a_fresh_run_writes_nothing(scene):
    """The same where it goes on while the `--fresh` run is in the middle: each writes another part of one image."""
    folder = scene.root / "both"
    with started("run", scene.yaml("both", model={**OLD, "seconds": 1.0})) as first:
        wait_for(has_rows(first, folder, 2), "blocks")
        in_the_middle(first.process)
        with started("run", scene.yaml("both", model={**NEW, "seconds": 0.1}), "--fresh", "--take-over") as second:
            wait_for(lambda: folder.joinpath("run.json").exists() and "epoch" in log_of(folder), "the second run")
            wait_for(has_rows(second, folder, 20), "blocks")  # the image that the first one works on is done
            first.process.resume()
            assert first.wait(30).code == 1
            ended = second.wait()
            assert ended.code == 0, ended.told
    assert_new(scene, folder)
