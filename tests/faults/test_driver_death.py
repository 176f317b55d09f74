"""The driver is killed at random moments; the same command goes on where it stopped."""

from __future__ import annotations

import random

import psutil
import pytest

from tests.faults.scene import Scene, assert_same, gigaseg, has_rows, is_alive, rows, run, run_json, started, wait_for


def kill_driver(scene, output, rng, latest_s):
    """Start the run and `kill -9` its process after up to so many seconds; gives what it left alive, or None where it had ended."""
    with started("run", scene.yaml(output)) as command:
        try:
            command.process.wait(rng.uniform(0.3, latest_s))
        except psutil.TimeoutExpired:
            command.tree()
            command.process.kill()
            command.process.wait(10)
            wait_for(lambda: not command.working(), lambda: f"{command.working()} to end", 10)
            return True
        return False


def kill_until(scene, output, kills, seed, latest_s):
    """Kill and resume; where a run gets to its end before, begin anew in another folder."""
    rng = random.Random(seed)
    killed, folders = 0, [f"{output}0"]
    while killed < kills:
        if kill_driver(scene, folders[-1], rng, latest_s):
            killed += 1
        else:
            folders.append(f"{output}{len(folders)}")
    return folders


def assert_resumes(scene, folders):
    """The same command ends each run as if nothing had been; with any runner."""
    for output in folders:
        ended = run(scene.yaml(output, compute={"runner": "serial"}))
        assert ended.code == 0, ended.told
        assert_same(scene.root / output, scene.reference())
        assert run_json(scene.root / output)["state"] == "done"


def test_a_killed_driver_resumes(tmp_path):
    """Four `kill -9` of the driver at random moments: the resumed run's masks and report are those of an undisturbed one."""
    scene = Scene(tmp_path, seconds=0.05)
    assert_resumes(scene, kill_until(scene, "killed", kills=4, seed=3, latest_s=3))


def test_a_killed_driver_resumes_blending(tmp_path):
    """The same where blocks wait for each other's scores; of these nothing is left in the end."""
    scene = Scene(tmp_path, seconds=0.05, tiling={"core": 64, "block": 64, "halo": 8, "stitch": "linear"})
    folders = kill_until(scene, "killed", kills=4, seed=5, latest_s=4)
    assert_resumes(scene, folders)
    assert not [folder for folder in folders if (tmp_path / folder / "parts").exists()]


def test_a_killed_driver_takes_its_ray_with_it(tmp_path):
    """`kill -9` of the driver of a Ray run: none of its actors is left, what was committed is kept, and a serial run finishes it."""
    scene = Scene(tmp_path, seconds=0.2, compute={"runner": "ray", "actors": 2})
    folder = tmp_path / "killed"
    with started("run", scene.yaml("killed")) as command:
        wait_for(has_rows(command, folder, 5), "blocks")
        assert len(command.tree()) > 4
        command.process.kill()
        wait_for(lambda: not command.working(), lambda: f"{command.working()} to end", 10)
    before = rows(folder)
    assert_resumes(scene, ["killed"])
    again = rows(folder) - before
    assert before >= 5
    assert again == 3 * 17 - before


def test_a_second_kill_while_resuming_loses_nothing(tmp_path):
    """A resumed run that is killed as soon as it has committed a block keeps what both did."""
    scene = Scene(tmp_path, images=1, seconds=0.1)
    folder = tmp_path / "killed"
    for number in (2, 4, 6):
        with started("run", scene.yaml("killed")) as command:
            wait_for(has_rows(command, folder, number), "blocks")
            command.process.kill()
        assert not is_alive(command.process)
    before = rows(folder)
    assert_resumes(scene, ["killed"])
    assert rows(folder) == 17
    assert before >= 6


@pytest.mark.slow
def test_ten_killed_drivers_resume(tmp_path):
    """Ten `kill -9` of a serial driver at random moments: the resumed runs' masks and reports are those of an undisturbed one."""
    scene = Scene(tmp_path, images=4, seconds=0.05)
    assert_resumes(scene, kill_until(scene, "killed", kills=10, seed=17, latest_s=4))


@pytest.mark.slow
def test_killed_ray_drivers_resume(tmp_path):
    """Four `kill -9` of a Ray driver at random moments, while Ray starts too: nothing stays alive, and the run resumes."""
    scene = Scene(tmp_path, images=4, seconds=0.3, compute={"runner": "ray", "actors": 2})
    assert_resumes(scene, kill_until(scene, "killed", kills=4, seed=29, latest_s=20))


@pytest.mark.slow
def test_a_dead_head_ends_the_run(tmp_path):
    """When Ray's own head dies the run ends with exit 1 in about a minute, not never, and resumes."""
    scene = Scene(tmp_path, seconds=0.3, compute={"runner": "ray", "actors": 2})
    with started("run", scene.yaml("killed")) as command:
        wait_for(has_rows(command, tmp_path / "killed", 5), "blocks")
        (head,) = [one for one in command.tree().values() if one.name() == "gcs_server"]
        head.kill()
        assert command.wait().code == 1
    assert_resumes(scene, ["killed"])


def test_status_does_not_take_the_word_of_the_dead(tmp_path):
    """A driver that was killed left `running` behind: status says interrupted, and running while it lives."""
    scene = Scene(tmp_path, images=2, seconds=0.3)
    with started("run", scene.yaml("out")) as command:
        wait_for(has_rows(command, scene.root / "out", 1), lambda: command.told)
        assert '"state": "running"' in gigaseg("status", scene.root / "out", "--json").told
        command.process.kill()
        command.process.wait(10)
    assert '"state": "interrupted"' in gigaseg("status", scene.root / "out", "--json").told
