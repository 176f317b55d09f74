"""A watch of a folder: each image once, whatever is killed, replaced or broken, and nothing of a file that is being written."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter

import pytest

from pipeline.records import read_rows
from tests.faults.scene import Scene, assert_same, gigaseg, has_rows, is_alive, report_in, rows, run_json, started, wait_for

FAST = ("--settle", "0.5", "--every", "0.2", "--json")


@pytest.fixture
def scene(tmp_path):
    scene = Scene(tmp_path, seconds=0.05)
    (tmp_path / "in").mkdir()
    return scene


def arrive(scene, number, name=None):
    """An image is copied into the folder, as a program that is in a hurry does."""
    shutil.copyfile(scene.root / "images" / f"{number:02d}.tif", scene.root / "in" / (name or f"{number:02d}.tif"))


def watching(scene):
    return started("watch", scene.root / "in", "--config", scene.yaml("out"), *FAST)


def lines(command):
    """What has been told of images so far, in order."""
    return [json.loads(line) for line in command.told.splitlines() if line.startswith("{")]


def told_of(command, *names):
    """A condition: each of these images has been told of."""

    def check():
        found = {line["name"] for line in lines(command)}
        assert is_alive(command.process) or found >= set(names), command.told
        return found >= set(names)

    return check


def times_done(scene):
    """How often the blocks of each image were predicted, over all processes."""
    return Counter(row.image for row in read_rows(scene.root / "out" / "ledger") if row.phase == "predict")


def test_images_arrive_and_are_done_once_though_the_watch_is_killed(scene):
    """A growing file is left alone; after kill -9 its pass ends, and the next watch does what is left and tells of each image once."""
    out = scene.root / "out"
    whole = (scene.root / "images" / "00.tif").read_bytes()
    with watching(scene) as command:
        (scene.root / "in" / "00.tif").write_bytes(whole[: len(whole) // 2])
        arrive(scene, 1)
        arrive(scene, 2)

        def half_done():
            with (scene.root / "in" / "00.tif").open("ab") as growing:  # never longer, and never at rest
                growing.truncate(len(whole) // 2)
            return has_rows(command, out, 5)()

        wait_for(half_done, "blocks")
        assert {row.image for row in read_rows(out / "ledger")} == {"01"}
        (child,) = command.tree().values()
        command.process.kill()
        wait_for(lambda: not is_alive(child), "the end of the pass")  # it ends by itself, and commits what it did
    (scene.root / "in" / "00.tif").write_bytes(whole)
    with watching(scene) as command:
        wait_for(told_of(command, "00", "01", "02"), "three images")
        second = gigaseg("watch", scene.root / "in", "--config", scene.yaml("out"))
        assert second.code == 4, second.told
        assert "a watch that is still going" in second.told
        command.process.send_signal(signal.SIGTERM)
        ended = command.wait(15)
    assert ended.code == 0, ended.told
    assert Counter(line["name"] for line in lines_in(ended)) == {"00": 1, "01": 1, "02": 1}
    assert set(times_done(scene).values()) == {16}
    assert_same(out, scene.reference())


def lines_in(ended):
    return [json.loads(line) for line in ended.told.splitlines() if line.startswith("{")]


def test_a_bad_file_blocks_nothing_and_is_tried_again_when_it_changes(scene):
    """A truncated file is quarantined and named, others are done; an image that is replaced is done again, and only that one."""
    arrive(scene, 0)
    whole = (scene.root / "images" / "01.tif").read_bytes()
    (scene.root / "in" / "01.tif").write_bytes(whole[: len(whole) - 2000])
    with watching(scene) as command:
        wait_for(told_of(command, "00", "01"), "two images")
        assert {line["name"]: line["failures"] > 0 for line in lines(command)} == {"00": False, "01": True}
        first = times_done(scene)
        arrive(scene, 2)
        wait_for(told_of(command, "02"), "the third image")
        assert times_done(scene) == first | {"02": 16}  # what is quarantined stays so
        arrive(scene, 2, "00.tif")  # replaced by other pixels
        (scene.root / "in" / "01.tif").write_bytes(whole)
        wait_for(lambda: len(lines(command)) == 5, lambda: command.told)
        assert gigaseg("stop", scene.root / "out").code == 0
        ended = command.wait(15)
    assert ended.code == 0, ended.told
    assert times_done(scene) == {"00": 32, "01": first["01"] + 16, "02": 16}
    assert report_in(scene.root / "out")["failures"] == []


def test_a_pass_is_interrupted_in_order(scene):
    """SIGTERM within a pass: blocks in flight are finished, the exit code is 130, and the next watch goes on."""
    arrive(scene, 0)
    with watching(scene) as command:
        wait_for(has_rows(command, scene.root / "out", 3), "blocks")
        command.process.send_signal(signal.SIGTERM)
        ended = command.wait(15)
    assert ended.code == 130, ended.told
    assert "Traceback" not in ended.told
    assert run_json(scene.root / "out")["state"] == "interrupted"
    assert not lines_in(ended)
    left = 17 - rows(scene.root / "out")
    assert 0 < left < 17
    ended = gigaseg("watch", scene.root / "in", "--config", scene.yaml("out"), *FAST, "--once")
    assert ended.code == 0, ended.told
    assert [line["name"] for line in lines_in(ended)] == ["00"]
    assert times_done(scene) == {"00": 16}
