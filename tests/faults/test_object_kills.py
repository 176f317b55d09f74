"""Runs with objects whose driver or actors are killed: the same command goes on, and leaves the files of an undisturbed run."""

from __future__ import annotations

import json

import pytest
from psutil import NoSuchProcess

from tests.faults.scene import Scene, has_rows, is_alive, lost_actors, report_in, rows, run, started, wait_for

OBJECTS = {"instances": {"name": "watershed", "height": "probability", "halo": 16}, "metrics": ["semantic", "instances"]}
FOLDERS = ("masks", "instances", "objects")


def files_in(output):
    """Every output file by its path, and the report without its clock; a write that was cut short leaves a hidden file for a minute."""
    paths = [path for one in FOLDERS for path in (output / one).rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(output)): path.read_bytes() for path in paths} | {"report": report_in(output)}


def assert_same(output, reference):
    one, other = files_in(output), files_in(reference)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []
    assert not (output / "parts").exists()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """One image of 16 blocks, whose truth has no ids, and what an undisturbed serial run leaves."""
    made = Scene(tmp_path_factory.mktemp("objects"), images=1)
    ended = run(made.yaml("reference", **OBJECTS))
    assert ended.code == 0, ended.told
    return made


def phases_in(output):
    """Blocks of each phase in the ledger."""
    found = {}
    for segment in (output / "ledger").glob("*.jsonl"):
        for line in segment.read_text().splitlines():
            if (receipt := json.loads(line).get("receipt")) is not None:
                found[receipt["phase"]] = found.get(receipt["phase"], 0) + 1
    return found


def test_a_killed_driver_resumes_in_any_phase(scene):
    """`kill -9` of the driver while it predicts, labels, matches, measures, pairs and later: nothing is lost, and nothing is done twice."""
    output, total = scene.root / "killed", rows(scene.root / "reference")
    left = []
    for number in range(8, total - 8, total // 5):
        with started("run", scene.yaml("killed", **OBJECTS)) as command:
            wait_for(has_rows(command, output, number), lambda: command.told)
            command.process.kill()
        assert not is_alive(command.process)
        left.append(rows(output))
    assert left[0] < total  # a quick machine may end the run before the last kills
    ended = run(scene.yaml("killed", **OBJECTS))
    assert ended.code == 0, ended.told
    assert_same(output, scene.root / "reference")
    assert phases_in(output) == phases_in(scene.root / "reference")


def test_killed_actors_cost_nothing(scene):
    """Two actors of Ray, of which one is killed while objects are joined: the files of the serial run."""
    output = scene.root / "actors"
    with started("run", scene.yaml("actors", **OBJECTS, compute={"runner": "ray", "actors": 2})) as command:
        for number in (10, 40):
            wait_for(has_rows(command, output, number), lambda: command.told)
            for actor in command.actors()[:1]:
                try:
                    actor.kill()
                except NoSuchProcess:
                    continue
        ended = command.wait()
    assert ended.code == 0, ended.told
    assert lost_actors(output)
    assert_same(output, scene.root / "reference")
