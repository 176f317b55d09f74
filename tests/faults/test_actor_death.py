"""Actors are killed at random moments; nobody notices but the log."""

from __future__ import annotations

import random
import time

import pytest

from pipeline.records import read_rows
from tests.faults.scene import Scene, assert_same, has_rows, is_alive, log_of, lost_actors, rows, run_json, started, wait_for


def kill_at_random(scene, output, kills, seed):
    """Run with two actors, and kill one of them so many times, each time after some more blocks were done."""
    rng = random.Random(seed)
    folder = scene.root / output
    with started("run", scene.yaml(output)) as command:
        for _ in range(kills):
            wait_for(has_rows(command, folder, rows(folder) + 2), lambda: f"more blocks: {command.told}")
            time.sleep(rng.uniform(0, 1))
            victim = rng.choice(wait_for(command.actors, "an actor"))
            victim.kill()
            victim.wait(10)
        assert is_alive(command.process), "the run was over before the last kill counted: it takes more blocks"
        return command.wait()


def assert_undisturbed(scene, output, kills):
    folder = scene.root / output
    assert_same(folder, scene.reference())
    assert len(lost_actors(folder)) == kills
    assert "quarantine" not in log_of(folder)
    assert run_json(folder)["state"] == "done"


def test_killed_actors_leave_no_trace(tmp_path):
    """Two `kill -9` of an actor: masks and report are those of an undisturbed serial run, and the log names the lost actors."""
    scene = Scene(tmp_path, images=3, seconds=0.2, compute={"runner": "ray", "actors": 2})
    ended = kill_at_random(scene, "killed", kills=2, seed=5)
    assert ended.code == 0, ended.told
    assert_undisturbed(scene, "killed", 2)


def test_a_frozen_actor_holds_up_nobody(tmp_path):
    """An actor that answers no more is waited for in vain: its blocks are done by the other one, each is booked once, none is charged."""
    scene = Scene(tmp_path, images=2, seconds=0.5, compute={"runner": "ray", "actors": 2})
    folder = tmp_path / "frozen"
    with started("run", scene.yaml("frozen")) as command:
        wait_for(lambda: log_of(folder).count(" ready on node ") == 2 if (folder / "log.txt").exists() else False, lambda: command.told)
        wait_for(has_rows(command, folder, 2), lambda: command.told)
        wait_for(command.actors, "an actor")[0].suspend()
        ended = command.wait()
    assert ended.code == 0, ended.told
    assert_same(folder, scene.reference())
    assert "blocks run a second time, and the first result counts" in log_of(folder)
    receipts = [(receipt.phase, receipt.block) for receipt in read_rows(folder / "ledger")]
    assert len(receipts) == len(set(receipts))
    assert lost_actors(folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_twenty_killed_actors_leave_no_trace(tmp_path, seed):
    """Five `kill -9` of an actor in each of four runs: masks and report are those of an undisturbed serial run."""
    scene = Scene(tmp_path, images=8, seconds=0.4, compute={"runner": "ray", "actors": 2})
    ended = kill_at_random(scene, "killed", kills=5, seed=seed)
    assert ended.code == 0, ended.told
    assert_undisturbed(scene, "killed", 5)
