"""A run on a cluster of several machines, each a Ray node of its own: machines that die, and machines that are not there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from pipeline.records import latest, read_rows
from tests.faults.scene import REPOSITORY, Scene, assert_same, gigaseg, has_rows, is_alive, log_of, run, run_json, started, wait_for

# a head without room, and two machines of one core and two make-believe GPUs; one of them dies at the first line it reads
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

small = {"object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, "include_dashboard": False, **small})
nodes = [cluster.add_node(num_cpus=1, num_gpus=2, **small) for _ in range(2)]
print(cluster.address, flush=True)
for _ in sys.stdin:
    cluster.remove_node(nodes.pop(), allow_graceful=False)
    print("dead", flush=True)
cluster.shutdown()
"""

# what actors on such a cluster are given, as JSON
PINNED = """
import json, os, sys
import ray
from pipeline.errors import InputError
from pipeline.config import Recipe
from pipeline.scheduling.runners._cluster import join
from pipeline.config import Compute

class Probe:
    def __init__(self, job):
        self.job = job

    def told(self):
        node = ray.get_runtime_context().get_node_id()
        return node, os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ["OMP_NUM_THREADS"], self.job

recipe = Recipe("torch", "cuda", "fp32", 64, 0, 64, "crop", 1, 1)
found = {}
for share in (1.0, 0.5):
    with join(Compute(address=sys.argv[1], gpus_per_actor=share, actors=2), recipe, lambda line: None) as cluster:
        found[f"room {share:g}"] = cluster.room()
        actors = [cluster.start(Probe, "job") for _ in range(cluster.num_actors())]
        found[f"told {share:g}"] = ray.get([actor.told.remote() for actor in actors])
try:
    with join(Compute(address=sys.argv[1], actors=5), recipe, lambda line: None):
        pass
except InputError as refused:
    found["refused"] = str(refused)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def environment():
    """What every process on the cluster needs; authentication is off, and said to be."""
    folder = Path(tempfile.mkdtemp(prefix="g", dir="/tmp"))
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    yield plain | {"RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(environment):
    """A running cluster; `.address` is where its head answers."""
    command = [sys.executable, "-c", CLUSTER]
    process = psutil.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    process.address = process.stdout.readline().strip()
    tree = process.children(recursive=True)
    yield process
    process.stdin.close()
    process.stdout.close()
    _, left = psutil.wait_procs([process], timeout=20)
    for one in [*left, *(one for one in tree if is_alive(one))]:
        one.kill()


def on(cluster, **more):
    return {"runner": "ray", "address": cluster.address, **more}


def test_more_than_there_is_is_refused(tmp_path, cluster):
    """More actors than the cluster has room for are refused at the start, with what it has and what would do."""
    scene = Scene(tmp_path, images=1, compute=on(cluster, actors=3))
    ended = run(scene.yaml("many"), env={"RAY_AUTH_MODE": "disabled"}, limit_s=40)
    assert ended.code == 2, ended.told
    assert "compute.actors: found 3" in ended.told
    assert "Use compute.actors: 2" in ended.told
    assert "Traceback" not in ended.told


def test_a_cluster_that_is_not_there_is_refused(tmp_path):
    """An address where nothing answers is wrong input: exit 2 with the address, not a traceback."""
    scene = Scene(tmp_path, images=1, compute={"runner": "ray", "address": "127.0.0.1:1"})
    ended = run(scene.yaml("nowhere"), env={"RAY_AUTH_MODE": "disabled"}, limit_s=40)
    assert ended.code == 2, ended.told
    assert "compute.address" in ended.told
    assert "127.0.0.1:1" in ended.told
    assert "Traceback" not in ended.told


def test_a_cluster_of_the_environment_that_is_not_there_is_told_as_such(tmp_path):
    """A dead RAY_ADDRESS is told by its own name, with the way to run without it: the YAML has no address to correct."""
    scene = Scene(tmp_path, images=1, compute={"runner": "ray"})
    ended = run(scene.yaml("nowhere"), env={"RAY_ADDRESS": "127.0.0.1:1"}, limit_s=40)
    assert ended.code == 2, ended.told
    assert "the environment variable RAY_ADDRESS: found 127.0.0.1:1" in ended.told
    assert "unset RAY_ADDRESS" in ended.told
    assert "compute.address" not in ended.told


def test_a_temporary_folder_that_is_too_deep_is_told(tmp_path):
    """Where the sockets of Ray would have longer paths than the system allows, the variable, the folder and the way out are told."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    scene = Scene(tmp_path, images=1, compute={"runner": "ray"})
    ended = run(scene.yaml("deep"), env={"RAY_TMPDIR": str(deep)}, limit_s=40)
    assert ended.code == 2, ended.told
    assert f"the environment variable RAY_TMPDIR: found {deep}" in ended.told
    assert "RAY_TMPDIR=/tmp" in ended.told
    assert "Traceback" not in ended.told
    assert not (tmp_path / "deep").exists()


def test_actors_are_pinned_to_their_share_of_a_gpu(cluster, environment):
    """With `gpus_per_actor` 1 or 1/2, each actor sees the one GPU that it was given; 2 machines have room for 2 (a core each)."""
    told = subprocess.run(
        [sys.executable, "-c", PINNED, cluster.address], env=environment, capture_output=True, text=True, check=True, timeout=90
    )
    found = json.loads(told.stdout)
    assert found["room 1"] == found["room 0.5"] == 2
    for share in ("1", "0.5"):
        nodes, gpus, threads, jobs = zip(*found[f"told {share}"], strict=True)
        assert len(set(nodes)) == 2
        assert set(gpus) <= {"0", "1"}
        assert (threads, jobs) == (("1", "1"), ("job", "job"))
    assert "5 of 1 GPU, 1 CPU each" in found["refused"]
    assert "the cluster has 4 GPU, 2 CPU" in found["refused"]


def test_a_machine_that_dies_is_not_missed(tmp_path, cluster):
    """A node is killed in the middle: the others do its blocks, none is charged, and the result is that of an undisturbed run."""
    scene = Scene(tmp_path, seconds=0.2, compute=on(cluster))
    folder = tmp_path / "lost"
    with started("run", scene.yaml("lost"), env={"RAY_AUTH_MODE": "disabled"}) as command:
        wait_for(has_rows(command, folder, 5), "blocks")
        cluster.stdin.write("\n")
        cluster.stdin.flush()
        ended = command.wait()
    assert ended.code == 0, ended.told
    assert_same(folder, scene.reference())
    assert {receipt.attempts for receipt in latest(read_rows(folder / "ledger")).values()} == {1}
    assert "(its node is lost)" in log_of(folder)
    assert run_json(folder)["state"] == "done"
    assert gigaseg("status", folder).code == 0
