"""Runs on a real Slurm: an hour's limit, a stop and a kill change no pixel, and the job ends with the exit code of the run."""

from __future__ import annotations

import faulthandler
import shutil
import time

import pytest
import yaml

from tests.cluster.judge import wrong_in
from tests.cluster.slurm import CPUS, GPUS, NODES, Cluster, missing
from tests.faults.scene import CORE, Scene, masks_in, rows, run, run_json

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing())]

STEADY = "tests.cluster.steady"


class Desk:
    """A user's desk: images, a serial run of them, and the login node of a cluster."""

    def __init__(self, root, cluster):
        self.root, self.cluster = root, cluster
        self.scene = Scene(root, images=2, tiling={"core": CORE, "block": CORE, "halo": 1})
        (root / "trace").mkdir()
        serial = {"runner": "serial"}
        ended = run(self.scene.yaml("reference", model={"name": STEADY}, compute=serial))
        assert ended.code == 0, ended.told

    def yaml(self, name, *, seconds=0.0, **changes):
        model = {"name": STEADY, "seconds": seconds, "trace": str(self.root / "trace")}
        return self.scene.yaml(name, **{"model": model, "compute": {"device": "cuda"}, **changes})

    def submit(self, config, *arguments, limit_s=240, **options):
        """Run `gigaseg submit` on the login node."""
        file = config.with_suffix(".options")
        file.write_text(yaml.safe_dump(options))
        command = ["gigaseg", "submit", config, "--to", "slurm", "--options", file, *arguments]
        return self.cluster.run(*command, limit_s=limit_s)

    def log(self, job):
        return "".join(path.read_text() for path in self.root.glob(f"*-{job}*.log"))

    def wait_for_rows(self, name, number, job, limit_s=120):
        deadline = time.monotonic() + limit_s
        while rows(self.root / name) < number:
            assert time.monotonic() < deadline, self.log(job)
            time.sleep(0.2)

    def judge(self, name):
        assert run_json(self.root / name)["state"] == "done"
        assert not wrong_in(self.root / name, self.root / "reference")


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A cluster with two nodes that have two make-believe GPUs each."""
    root = tmp_path_factory.mktemp("slurm")
    with Cluster(root) as cluster:
        yield Desk(root, cluster)
    shutil.rmtree(root / "slurm")


@pytest.fixture
def patient():
    """Let a test take longer than one that hangs may: time limits are minutes. What it waits for has a limit of its own."""
    faulthandler.cancel_dump_traceback_later()


def test_a_job_ends_as_its_run_does(desk):
    """One node, no Ray: a run submitted twice is one job, which waits and runs once; its masks are right and its exit code is told."""
    config, options = desk.yaml("one", seconds=0.1), {"cpus_per_node": 1, "log_folder": str(desk.root / "logs of 'jobs' $HOME")}
    first = desk.submit(config, **options)
    second = desk.submit(config, "--wait", **options)
    assert first.returncode == second.returncode == 0, second.stderr
    assert first.stdout == second.stdout
    assert "already" in second.stderr
    assert "report:" in second.stderr, "what the job printed"
    desk.judge("one")
    assert "report:" in desk.submit(config, "--logs", **options).stdout


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
def test_a_job_on_two_nodes_is_the_serial_run(desk):
    """Each actor has a GPU of its own on both nodes, the exit code is the run's, and nothing is left on the nodes."""
    for path in (desk.root / "trace").iterdir():
        path.unlink()
    ended = desk.submit(desk.yaml("two", seconds=4.0), "--wait", nodes=NODES, gpus_per_node=GPUS, cpus_per_node=CPUS)
    assert ended.returncode == 0, ended.stderr
    desk.judge("two")
    pins = {(path.name.partition("-")[0], path.read_text()) for path in (desk.root / "trace").iterdir()}
    assert pins == {(host, gpu) for host in ("h1", "h2") for gpu in "01"}
    for host in (1, 2):
        left = desk.cluster.hosts.run(host, ["bash", "-c", "ls -d /tmp/tmp.* 2> /dev/null; ps -eo args | grep -c '[r]aylet'; true"])
        assert left.stdout.split() == ["0"]


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("nodes", [1, NODES])
def test_at_its_time_limit_a_job_queues_again_and_resumes(desk, nodes):
    """The run stops before the limit, the same job starts again, goes on where it was, and its end is that of an undisturbed run."""
    name = f"limit-{nodes}"
    options = {"nodes": nodes, "gpus_per_node": 1, "cpus_per_node": 1, "time": str(1 + nodes), "grace": 30 * nodes}
    ended = desk.submit(desk.yaml(name, seconds=4.0 * nodes), "--wait", limit_s=580, **options)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("queued again") >= 1
    desk.judge(name)
    assert not list(desk.root.glob("*.restarts"))


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
def test_a_job_without_progress_is_not_queued_for_ever(desk):
    """A block that takes longer than the time limit is told, and the job ends as interrupted."""
    options = {"cpus_per_node": 1, "time": "1", "grace": 40}
    ended = desk.submit(desk.yaml("never", seconds=100.0), "--wait", limit_s=590, **options)
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.count("given up") == 1


@pytest.mark.slow
def test_a_job_that_is_stopped_is_not_queued_again(desk):
    """It finishes its blocks in flight, ends as interrupted, and resumes when it is submitted again; a waiting one is gone at once."""
    config = desk.yaml("stopped", seconds=1.0)
    job = desk.submit(config, cpus_per_node=1).stdout.strip()
    desk.wait_for_rows("stopped", 3, job)
    stopped = desk.submit(config, "--stop")
    assert (stopped.returncode, job in stopped.stderr) == (0, True), stopped.stderr
    assert desk.cluster.wait_for(job, "FAILED").split()[1] == "130:0"
    assert run_json(desk.root / "stopped")["state"] == "interrupted"
    assert "queued again" not in desk.log(job)
    waiting = desk.submit(config, "--stop")
    assert waiting.returncode == 2
    held = desk.submit(config, cpus_per_node=1, extra=["--hold"]).stdout.strip()
    assert desk.submit(config, "--stop").returncode == 0
    assert desk.cluster.state(held).startswith("CANCELLED")
    again = desk.submit(config, "--wait", cpus_per_node=1)
    assert again.returncode == 0, again.stderr
    desk.judge("stopped")


@pytest.mark.slow
def test_a_cancelled_job_resumes(desk):
    """`scancel` ends the job; whoever waits for it learns so, and the next one goes on."""
    config = desk.yaml("cancelled", seconds=1.0)
    job = desk.submit(config, cpus_per_node=1).stdout.strip()
    desk.wait_for_rows("cancelled", 3, job)
    assert desk.cluster.run("scancel", job).returncode == 0
    assert desk.cluster.wait_for(job, "CANCELLED")
    desk.cluster.wait_until_idle()
    again = desk.submit(config, "--wait", cpus_per_node=1)
    assert again.returncode == 0, again.stderr
    desk.judge("cancelled")


@pytest.mark.slow
def test_a_node_that_dies_is_replaced_by_the_other(desk):
    """The host of the job is gone; Slurm starts the job on the other one, which resumes."""
    config = desk.yaml("lost", seconds=1.0)
    job = desk.submit(config, cpus_per_node=1).stdout.strip()
    desk.wait_for_rows("lost", 3, job)
    node = desk.cluster.node_of(job)
    desk.cluster.kill(node)
    ended = desk.submit(config, "--wait", cpus_per_node=1)
    assert ended.returncode == 0, ended.stderr
    assert desk.cluster.node_of(job) != node
    desk.judge("lost")


@pytest.mark.slow
def test_the_exit_code_of_a_run_is_that_of_its_job(desk):
    """2 where the input is wrong, 3 where an image is quarantined; neither is queued again."""
    images = shutil.copytree(desk.root / "images", desk.root / "some")
    (images / "00.tif").write_bytes(b"II*\0 damaged")
    for name, given, code in (("wrong", [str(desk.root / "nothing.tif")], 2), ("partial", [str(images)], 3)):
        ended = desk.submit(desk.yaml(name, images=given, truth=None), "--wait", cpus_per_node=1)
        assert ended.returncode == code, ended.stderr
        assert desk.cluster.state(ended.stdout.strip()) == f"FAILED {code}:0"


@pytest.mark.slow
def test_the_tasks_of_an_array_share_the_images(desk):
    """Each image is in the output of one task, with the mask of a serial run; to submit again does nothing twice."""
    config = desk.yaml("shared")
    for _ in range(2):
        ended = desk.submit(config, "--wait", array=2, cpus_per_node=1)
        assert ended.returncode == 0, ended.stderr
    masks = {path.name: path for path in (desk.root / "shared").glob("task-*/masks/*")}
    assert sorted(masks) == ["00.ome.zarr", "01.ome.zarr"]
    expected = masks_in(desk.root / "reference")
    found = {name: mask for task in (0, 1) for name, mask in masks_in(desk.root / "shared" / f"task-{task}").items()}
    assert found.keys() == expected.keys()
    assert all((found[name] == expected[name]).all() for name in expected)
    assert [rows(desk.root / "shared" / f"task-{task}") for task in (0, 1)] == [rows(desk.root / "reference") // 2] * 2


@pytest.mark.slow
def test_the_line_for_cron_submits_the_run_once(desk):
    """Debian's Slurm has no crontab, so that the line is told; while its job waits or runs, it submits no other."""
    told = desk.submit(desk.yaml("nightly", seconds=0.2), schedule="0 2 * * *", cpus_per_node=1)
    assert (told.returncode, told.stdout[:10]) == (0, "0 2 * * * "), told.stderr
    first, second = (desk.cluster.run("bash", "-c", told.stdout[10:]) for _ in range(2))
    assert first.stdout.startswith("Submitted batch job ")
    assert second.stdout == ""
    assert desk.cluster.wait_for(first.stdout.split()[-1], "COMPLETED", "FAILED") == "COMPLETED 0:0"
    desk.judge("nightly")
