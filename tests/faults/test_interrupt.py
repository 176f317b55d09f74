"""A run that is asked to end, or whose place is wanted: it ends cleanly, and the same command goes on."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.faults.scene import (
    Scene,
    assert_same,
    gigaseg,
    has_rows,
    is_alive,
    log_of,
    report_in,
    rows,
    run,
    run_json,
    started,
    wait_for,
)

BLOCKS = 3 * 17  # of three images, with finishing them
RAY = {"runner": "ray", "actors": 2}


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path, seconds=0.05)


def assert_resumable(scene, folder):
    """Some blocks are done and some are not; the same command does the rest, and no block twice."""
    assert run_json(folder)["state"] == "interrupted"
    assert 0 < rows(folder) < BLOCKS
    ended = run(scene.yaml(folder.name, compute={"runner": "serial"}))
    assert ended.code == 0, ended.told
    assert rows(folder) == BLOCKS
    assert_same(folder, scene.reference())


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_in_order(scene, kind):
    """Ctrl-C or SIGTERM once: blocks in flight are finished and reported, exit 130, and the run is resumable."""
    folder = scene.root / "stopped"
    with started("run", scene.yaml("stopped")) as command:
        wait_for(has_rows(command, folder, 3), "blocks")
        command.process.send_signal(kind)
        ended = command.wait(15)
    assert ended.code == 130, ended.told
    assert "interrupted" in ended.told
    assert "Traceback" not in ended.told
    assert report_in(folder)["state"] == "interrupted"
    assert_resumable(scene, folder)


def test_a_second_signal_does_not_wait(tmp_path):
    """Ctrl-C twice: the run ends though a block hangs, with exit 130, and is resumable."""
    scene = Scene(tmp_path, poisons=(0, 254))  # the second image hangs
    folder = scene.root / "stopped"
    with started("run", scene.yaml("stopped")) as command:
        wait_for(has_rows(command, folder, 17), "blocks")
        time.sleep(1)
        command.process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert is_alive(command.process)
        command.process.send_signal(signal.SIGINT)
        ended = command.wait(10)
    assert ended.code == 130, ended.told
    assert "Traceback" not in ended.told
    scene.mended.touch()
    assert_resumable(scene, folder)


@pytest.mark.parametrize("after_s", [0, 0.02, 0.05, 0.1, 0.4])
def test_a_signal_before_the_first_block(scene, after_s):
    """Ctrl-C at any moment after Python itself has started: exit 130 and no traceback."""
    with started("run", scene.yaml("early")) as command:
        wait_for(command.listens, "the program")
        time.sleep(after_s)
        command.process.send_signal(signal.SIGINT)
        ended = command.wait(15)
    assert ended.code == 130, ended.told
    assert "Traceback" not in ended.told
    if (scene.root / "early" / "ledger").exists():
        assert run(scene.yaml("early")).code == 0
        assert_same(scene.root / "early", scene.reference())


def test_ctrl_c_in_a_terminal_ends_a_ray_run_in_order(tmp_path):
    """A terminal signals the whole group: actors finish what is in flight, no process stays, exit 130, resumable."""
    scene = Scene(tmp_path, seconds=0.3, compute=RAY)
    folder = scene.root / "stopped"
    with started("run", scene.yaml("stopped")) as command:
        wait_for(has_rows(command, folder, 3), "blocks")
        command.tree()
        os.killpg(command.process.pid, signal.SIGINT)
        ended = command.wait(30)
        assert ended.code == 130, ended.told
        assert "lost" not in log_of(folder)
        wait_for(lambda: not command.tree(), lambda: f"{command.tree()} to end", 30)
    assert_resumable(scene, folder)


@pytest.mark.slow
def test_ctrl_c_twice_ends_a_ray_run_at_once(tmp_path):
    """With Ray, too, the second Ctrl-C does not wait for a block that hangs, and leaves no process."""
    scene = Scene(tmp_path, poisons=(0, 254, 254), compute=RAY)
    folder = scene.root / "stopped"
    with started("run", scene.yaml("stopped")) as command:
        wait_for(has_rows(command, folder, 17 + 5), "blocks")
        command.tree()
        command.process.send_signal(signal.SIGINT)
        time.sleep(1.5)
        assert is_alive(command.process), command.told
        command.process.send_signal(signal.SIGINT)
        ended = command.wait(20)
        assert ended.code == 130, ended.told
        assert "Traceback" not in ended.told
        wait_for(lambda: not command.tree(), lambda: f"{command.tree()} to end", 30)
    scene.mended.touch()
    assert_resumable(scene, folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_ray_starts(tmp_path, kind):
    """A signal at any moment while Ray starts ends the run with exit 130, and leaves no process that works."""
    scene = Scene(tmp_path, images=1, compute=RAY)
    folder = tmp_path / "early"
    for after_s in (0.2, 1.0, 2.0, 3.0):
        with started("run", scene.yaml("early")) as command:
            wait_for(lambda: (folder / "log.txt").exists() and log_of(folder).count("begin") > 0, "the run to begin")
            time.sleep(after_s)
            command.tree()
            command.process.send_signal(kind)
            ended = command.wait(40)
            assert ended.code == 130, (after_s, ended.told)
            assert run_json(folder)["state"] == "interrupted"
            wait_for(lambda: not command.working(), lambda: f"{command.working()} to end", 15)
            (folder / "log.txt").unlink()
    assert run(scene.yaml("early", compute={"runner": "serial"})).code == 0
    assert_same(folder, scene.reference())


def test_stop_from_elsewhere(scene):
    """`gigaseg stop DIR` ends a run as a signal does, and does not stop the next one."""
    scene.seconds = 0.1
    folder = scene.root / "stopped"
    with started("run", scene.yaml("stopped")) as command:
        wait_for(has_rows(command, folder, 3), "blocks")
        assert gigaseg("stop", folder).code == 0
        assert command.wait(15).code == 130
    assert_resumable(scene, folder)


def test_a_second_run_is_refused_and_may_take_over(scene):
    """A live run's folder is refused with host and pid; with `--take-over` the first one ends with exit 1 and spoils nothing."""
    scene.seconds = 0.15
    folder, config = scene.root / "taken", scene.yaml("taken")
    with started("run", config) as first:
        wait_for(has_rows(first, folder, 2), "blocks")
        refused = run(config)
        assert refused.code == 4
        assert os.uname().nodename in refused.told
        assert f"pid {first.process.pid}" in refused.told
        assert "--take-over" in refused.told
        with started("run", config, "--take-over") as second:
            ended = first.wait(20)
            assert ended.code == 1, ended.told
            assert "taken over" in ended.told
            assert run_json(folder)["state"] == "running"
            assert second.wait().code == 0, second.told
    assert run_json(folder)["state"] == "done"
    assert_same(folder, scene.reference())


def test_a_stopped_holder_wakes_too_late(scene):
    """A holder that stood still is taken over; when it wakes it ends with exit 1, and the finished run stays what it is."""
    folder, config = scene.root / "taken", scene.yaml("taken")
    with started("run", config) as first:
        wait_for(has_rows(first, folder, 3), "blocks")
        first.process.send_signal(signal.SIGSTOP)
        assert run(config).code == 4
        assert run(config, "--take-over").code == 0
        written = (folder / "run.json").read_bytes()
        first.process.send_signal(signal.SIGCONT)
        ended = first.wait(20)
        assert ended.code == 1, ended.told
    assert (folder / "run.json").read_bytes() == written
    assert_same(folder, scene.reference())
    assert run(config).code == 0


def test_a_dead_holder_is_followed_at_once(scene):
    """The folder of a killed run needs no `--take-over` and no waiting."""
    folder, config = scene.root / "dead", scene.yaml("dead")
    with started("run", config) as first:
        wait_for(has_rows(first, folder, 3), "blocks")
        first.process.kill()
    began = time.monotonic()
    assert run(scene.yaml("dead", compute={"runner": "serial"}), limit_s=25).code == 0
    assert time.monotonic() - began < 25  # a holder that cannot be looked at is waited for 30 s
    assert_same(folder, scene.reference())
