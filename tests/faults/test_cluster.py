"""A run on a cluster of several machines, each a Ray node of its own: machines that die, and machines that are not there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pipeline.records import latest, read_rows
from tests.faults.scene import REPOSITORY, Scene, assert_same, gigaseg, has_rows, is_alive, log_of, run, run_json, started, wait_for

# A head without room, and two machines of four cores and two make-believe GPUs. On demand one dies and another joins; one is drained;
# or it answers once Ray has noticed which machines are dead, up to 15 s later: until then it would place actors there.
CLUSTER = """
import sys, time
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster

PREEMPTION = 2

small = {"object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, "include_dashboard": False, **small})
add_node = lambda: cluster.add_node(num_cpus=4, num_gpus=2, **small)
nodes = [add_node(), add_node()]
print(cluster.address, flush=True)
for line in sys.stdin:
    what, *names = line.split()
    if what == "drain":
        deadline_ms = int(time.time() * 1000) + 60_000
        (node,) = [node.node_id for node in nodes if node.node_id.startswith(names[0])]
        print(GcsClient(address=cluster.address).drain_node(node, PREEMPTION, "notice", deadline_ms), flush=True)
    elif what == "settle":
        cluster.wait_for_nodes(timeout=60)
        print("settled", flush=True)
    else:
        cluster.remove_node(nodes.pop(), allow_graceful=False)
        nodes.append(add_node())
cluster.shutdown()
"""

# what actors on such a cluster are given, as JSON
PINNED = """
import json, os, sys, time
import ray
from pipeline.config import Compute, Recipe
from pipeline.scheduling.runners._cluster import join

class Probe:
    def __init__(self, job):
        self.job = job

    def told(self):
        node = ray.get_runtime_context().get_node_id()
        return node, os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ["OMP_NUM_THREADS"], self.job

recipe = Recipe("torch", "cuda", "fp32", 64, 0, 64, "crop", 1, 1)
found = {}

def ask(name, share, number, avoided=()):
    with join(Compute(address=sys.argv[1], gpus_per_actor=share, actors=number), recipe, lambda line: None) as cluster:
        while cluster.watch.view.total("GPU", free=True) < 4:  # actors of the join before are still ending
            time.sleep(0.1)
        needs = cluster.needs_of(number, avoided)
        actors = [cluster.start(Probe, "job", needs=needs, avoided=avoided) for _ in range(number)]
        found[name] = ray.get([actor.told.remote() for actor in actors], timeout=60)

ask("whole", 1, 4)
ask("halves on one node", 0.5, 2, found["whole"][0][:1])
ask("shared", 0.5, 4, found["whole"][0][:1])
print(json.dumps(found))
"""

# takes every core of a cluster until it reads a line
OTHERS = """
import sys
import ray

ray.init(address=sys.argv[1], log_to_driver=False)

@ray.remote(num_cpus=4)
class Busy:
    def work(self):
        pass

actors = [Busy.remote(), Busy.remote()]
ray.get([actor.work.remote() for actor in actors])
print("busy", flush=True)
sys.stdin.readline()
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


def tell(cluster, what):
    cluster.stdin.write(f"{what}\n")
    cluster.stdin.flush()


def settle(cluster):
    """Wait until Ray knows of exactly the machines that there are."""
    tell(cluster, "settle")
    assert cluster.stdout.readline() == "settled\n"


def nodes_of_actors(folder):
    """How the ids of the nodes begin on which actors got ready, in that order."""
    return re.findall(r"actor \d+ ready on node \S+ \((\w+)\)", log_of(folder))


def on(cluster, **more):
    return {"runner": "ray", "address": cluster.address, **more}


@contextmanager
def busy(cluster, environment):
    """Another program uses all cores of the cluster; call what is given to end it."""
    command = [sys.executable, "-c", OTHERS, cluster.address]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as others:
        assert others.stdout.readline() == "busy\n"
        yield lambda: others.communicate("\n", timeout=30)
        others.kill()


def test_a_run_on_a_busy_cluster_waits_or_is_refused(tmp_path, cluster, environment):
    """While others use the cluster, a run says what it waits for, and goes on when there is room; with --no-queue it is refused."""
    scene = Scene(tmp_path, images=1, compute=on(cluster, actors=2))
    with busy(cluster, environment) as leave, started("run", scene.yaml("late"), env={"RAY_AUTH_MODE": "disabled"}) as waiting:
        refused = run(scene.yaml("refused"), "--no-queue", env={"RAY_AUTH_MODE": "disabled"}, limit_s=40)
        assert refused.code == 2, refused.told
        assert "compute.actors: found room for 0 of 2 actors now: each needs 1 CPU, and 0 of 8 CPU are free" in refused.told
        assert not (tmp_path / "refused").exists()
        wait_for(lambda: "waiting for 1 CPU: 8 of 8 are used" in waiting.told, lambda: waiting.told)
        assert "waiting for 1 CPU" in log_of(tmp_path / "late")
        leave()
        ended = waiting.wait()
    assert ended.code == 0, ended.told
    assert_same(tmp_path / "late", scene.reference())


def test_an_address_of_ray_client_is_refused(tmp_path):
    """Its programs run outside the cluster: the way there is `gigaseg submit`."""
    scene = Scene(tmp_path, images=1, compute={"runner": "ray", "address": "ray://127.0.0.1:10001"})
    ended = run(scene.yaml("client"), env={"RAY_AUTH_MODE": "disabled"}, limit_s=40)
    assert ended.code == 2, ended.told
    assert "compute.address: found ray://127.0.0.1:10001" in ended.told
    assert "gigaseg submit" in ended.told
    assert "Traceback" not in ended.told
    assert not (tmp_path / "client").exists()


def test_a_cluster_that_is_not_there_is_refused(tmp_path):
    """An address where nothing answers is wrong input: exit 2 with the address, not a traceback."""
    scene = Scene(tmp_path, images=1, compute={"runner": "ray", "address": "127.0.0.1:1"})
    ended = run(scene.yaml("nowhere"), env={"RAY_AUTH_MODE": "disabled"}, limit_s=40)
    assert ended.code == 2, ended.told
    assert "compute.address" in ended.told
    assert "127.0.0.1:1" in ended.told
    assert "ray status --address 127.0.0.1:1" in ended.told
    assert "Traceback" not in ended.told
    assert not (tmp_path / "nowhere").exists()


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
    """Each actor sees one GPU; those that take half of one share none while there are GPUs enough, and then as few as possible."""
    told = subprocess.run(
        [sys.executable, "-c", PINNED, cluster.address], env=environment, capture_output=True, text=True, check=True, timeout=90
    )
    found = json.loads(told.stdout)
    for told in found.values():
        assert {tuple(rest) for _, _, *rest in told} == {("1", "job")}
    gpus = {name: Counter((node, gpu) for node, gpu, *_ in told) for name, told in found.items()}
    assert sorted(gpus["whole"].values()) == [1, 1, 1, 1]
    avoided = found["whole"][0][0]
    assert sorted(gpus["halves on one node"].values()) == [1, 1]
    assert sorted(gpus["shared"].values()) == [2, 2]
    for name in ("halves on one node", "shared"):
        assert {gpu for _, gpu in gpus[name]} == {"0", "1"}
        assert avoided not in {node for node, _ in gpus[name]}


def test_a_machine_that_dies_is_not_missed(tmp_path, cluster):
    """A node is killed in the middle: the others do its blocks, none is charged, and the result is that of an undisturbed run."""
    scene = Scene(tmp_path, seconds=0.2, compute=on(cluster, actors=2))
    folder = tmp_path / "lost"
    with started("run", scene.yaml("lost"), env={"RAY_AUTH_MODE": "disabled"}) as command:
        wait_for(has_rows(command, folder, 5), "blocks")
        tell(cluster, "die")
        ended = command.wait()
    assert ended.code == 0, ended.told
    assert_same(folder, scene.reference())
    assert {receipt.attempts for receipt in latest(read_rows(folder / "ledger")).values()} == {1}
    assert "(its node is lost)" in log_of(folder)
    assert run_json(folder)["state"] == "done"
    assert gigaseg("status", folder).code == 0


def test_a_machine_that_will_go_away_is_left(tmp_path, cluster):
    """After a preemption notice its actor finishes the blocks in flight and gets no more; none is lost, done twice or charged."""
    scene = Scene(tmp_path, seconds=0.5, compute=on(cluster, actors=2))
    folder = tmp_path / "left"
    settle(cluster)
    with started("run", scene.yaml("left"), env={"RAY_AUTH_MODE": "disabled"}) as command:
        wait_for(lambda: has_rows(command, folder, 5)() and len(nodes_of_actors(folder)) == 2, lambda: command.told)
        tell(cluster, f"drain {nodes_of_actors(folder)[-1]}")
        assert cluster.stdout.readline() == "(True, '')\n"
        ended = command.wait()
    assert ended.code == 0, ended.told
    assert_same(folder, scene.reference())
    assert "will go away: its actors finish their blocks and get no more" in ended.told
    assert " lost with " not in log_of(folder)
    assert log_of(folder).count(" ready on node ") == 3


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("raylet", "Ray's node on this machine is gone"),
        pytest.param("gcs_server", "Ray's head at 127.0.0.1:", marks=pytest.mark.slow),
    ],
)
def test_a_run_ends_soon_when_its_ray_is_gone(tmp_path, part, sentence):
    """Node or head of this machine is killed: the run ends in seconds and says so, run.json is true, and nothing is lost."""
    scene = Scene(tmp_path, images=1, seconds=2.0, compute={"runner": "ray", "actors": 2})
    config, folder = scene.yaml("gone"), tmp_path / "gone"
    with started("run", config) as command:
        wait_for(has_rows(command, folder, 2), lambda: command.told)
        (one,) = [one for one in command.tree().values() if one.name() == part]
        one.kill()
        ended = command.wait(30)
    assert ended.code == 1, ended.told
    assert sentence in ended.told
    assert "Traceback" not in ended.told
    assert run_json(folder)["state"] == "failed"
    ended = run(scene.yaml("gone", compute={"runner": "serial"}))
    assert ended.code == 0, ended.told
    assert_same(folder, scene.reference())
