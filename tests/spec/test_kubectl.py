"""What `submit --to kuberay` asks of kubectl, and what it makes of the answers.

No API server runs here. A script stands in for kubectl wherever a cluster would have to answer; the real kubectl, where it is
installed, is asked about a cluster that is not there.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from pipeline.config import config_from_mapping
from pipeline.errors import GigasegError, InputError
from pipeline.plugins import build
from pipeline.targets import EXIT_LOST_CONTACT, Submission, kuberay

RUN = {"images": ["/data/slides"], "model": {"name": "histogram", "classes": 2}, "output": "/data/out"}
OPTIONS = {"image": "gigaseg", "namespace": "science", "volumes": [{"name": "data", "claim": "slides", "mount": "/data"}]}


@pytest.fixture
def run(tmp_path):
    return Submission(config_from_mapping(RUN, tmp_path), "ray")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """The folder of a stand-in for kubectl, which is the only kubectl on PATH."""
    folder = tmp_path / "cluster"
    (folder / "bin").mkdir(parents=True)
    tool = folder / "bin" / "kubectl"
    tool.write_text(f"#!{sys.executable}\n" + Path(__file__).with_name("kubectl_stand_in.py").read_text())
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent))
    monkeypatch.setenv("KUBE_FOLDER", str(folder))
    monkeypatch.setattr(kuberay, "POLL_S", 0.01)
    monkeypatch.setattr("pipeline.targets._patience.PAUSE_S", 0.01)
    return folder


def target(**options):
    return build("targets", {"name": "kuberay", **OPTIONS, **options}, "--to")


def calls(cluster):
    return [json.loads(line) for line in (cluster / "calls").read_text().splitlines()]


def set_status(cluster, name, **status):
    (cluster / "status.json").write_text(json.dumps({name: status}))


def test_a_run_that_waits_or_runs_is_not_started_twice(run, cluster, capsys):
    """A second submission returns the first RayJob; once that has ended, another attempt of the same name begins."""
    first = target().submit(run)
    assert first == f"{run.name}-1"
    assert target().submit(run) == first
    assert "already new" in capsys.readouterr().err
    set_status(cluster, first, jobDeploymentStatus="Failed", jobStatus="FAILED")
    assert target().submit(run) == f"{run.name}-2"
    assert all("--namespace=science" in call for call in calls(cluster))


def test_a_schedule_is_applied_and_suspended(run, cluster):
    """Applied anew it changes; `--stop` suspends it, so that no other run begins."""
    timed = target(schedule="0 2 * * *")
    assert timed.submit(run) == run.name
    assert json.loads((cluster / f"{run.name}.raycronjob").read_text())["spec"]["schedule"] == "0 2 * * *"
    assert timed.stop(run) == run.name
    assert ["patch", "raycronjob", run.name, "--type=merge", "-p", '{"spec": {"suspend": true}}'] in [call[-6:] for call in calls(cluster)]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete"}, 0),
        ({"jobStatus": "FAILED", "message": "Job entrypoint command failed with exit code 4, last available logs ..."}, 4),
        ({"jobStatus": "FAILED", "message": "Job entrypoint command failed with exit code -9. No logs available."}, 137),
        ({"jobStatus": "STOPPED", "jobDeploymentStatus": "Complete"}, 130),
        ({"reason": "DeadlineExceeded", "message": "The RayJob has passed the activeDeadlineSeconds."}, 1),
    ],
)
def test_the_exit_code_of_the_run_comes_back(run, cluster, status, code, capsys):
    """Whatever Kubernetes calls the end; the log is printed once."""
    job = target().submit(run)
    (cluster / "log").write_text("segmenting\n")
    set_status(cluster, job, **{"jobDeploymentStatus": "Failed", **status})
    assert target().follow(run, job) == code
    assert capsys.readouterr().err.count("segmenting") == 1


def test_contact_that_is_lost_has_a_code_of_its_own(run, cluster, monkeypatch, capsys):
    """The run may go on: how it ended is not known here."""
    job = target().submit(run)
    (cluster / "refusal").write_text("Unable to connect to the server: dial tcp: i/o timeout")
    monkeypatch.setattr("pipeline.targets._patience.SILENCE_S", 0.05)
    assert target().follow(run, job) == EXIT_LOST_CONTACT
    assert "gigaseg status /data/out" in capsys.readouterr().err


def test_stop_asks_the_run_itself(run, cluster):
    """Where a head pod runs, the run finishes its blocks: nothing is deleted."""
    job = target().submit(run)
    set_status(cluster, job, jobDeploymentStatus="Running", rayClusterName="rc-1")
    (cluster / "heads").write_text("pod/rc-1-head\n")
    assert target().stop(run) == job
    assert calls(cluster)[-1][-8:] == ["exec", "pod/rc-1-head", "-c", "ray-head", "--", "gigaseg", "stop", "/data/out"]
    assert (cluster / f"{job}.rayjob").exists()


@pytest.mark.parametrize("has_head", [False, True])
def test_stop_deletes_what_cannot_be_asked(run, cluster, has_head):
    """Before the run has begun there is nobody to ask."""
    job = target().submit(run)
    set_status(cluster, job, jobDeploymentStatus="Initializing", **({"rayClusterName": "rc-1"} if has_head else {}))
    (cluster / "heads").write_text("pod/rc-1-head\n")
    (cluster / "exec_fails").write_text("yes")
    assert target().stop(run) == job
    assert not (cluster / f"{job}.rayjob").exists()


def test_nothing_to_stop_or_to_show_is_said(run, cluster):
    """Where no RayJob of this run is; other runs' RayJobs do not count."""
    target().submit(Submission(run.config.model_copy(update={"output": "/data/other"}), "ray"))
    with pytest.raises(InputError, match="no RayJob of /data/out that waits or runs in namespace science"):
        target().stop(run)
    with pytest.raises(InputError, match="no RayJob of /data/out"):
        target().logs(run)


def test_logs_are_those_of_the_last_attempt(run, cluster):
    """Also of a run that has ended."""
    first = target().submit(run)
    set_status(cluster, first, jobDeploymentStatus="Complete")
    second = target().submit(run)
    (cluster / "log").write_text("hello\n")
    assert target().logs(run) == "hello\n"
    assert calls(cluster)[-1][-1] == f"job/{second}"


@pytest.mark.parametrize(
    ("refusal", "error", "words"),
    [
        (
            "The connection to the server localhost:8080 was refused - did you specify the right host or port?",
            InputError,
            "kubectl cluster-info",
        ),
        ('error: the server doesn\'t have a resource type "rayjobs"', InputError, "Install the KubeRay operator"),
        ('error: no matches for kind "RayCronJob" in version "ray.io/v1"\nensure CRDs are installed first', InputError, "cron: plain"),
        ('Error from server (Forbidden): rayjobs.ray.io is forbidden: User "me" cannot list', InputError, "auth can-i"),
        ('strict decoding error: unknown field "spec.rayClusterSpec.authOptions"', InputError, "auth: null"),
        ("Error from server (InternalError): the disk is full", GigasegError, "the disk is full"),
    ],
)
def test_a_cluster_that_refuses_is_explained(run, cluster, refusal, error, words):
    """One line with the way out for each: no cluster, no KubeRay, an older one, no right, something else."""
    (cluster / "refusal").write_text(refusal)
    with pytest.raises(GigasegError) as refused:
        target().submit(run)
    assert isinstance(refused.value, error)
    assert refused.value.exit_code == (2 if error is InputError else 1)
    assert words in str(refused.value)


def test_no_kubectl_is_the_users_to_mend(run, tmp_path, monkeypatch):
    """The message says what works without it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="--dry-run prints"):
        target().submit(run)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_the_real_kubectl_finds_no_cluster(run, tmp_path, monkeypatch):
    """Its own words are understood: nothing listens at the address."""
    config = {"clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}], "current-context": "none"}
    config |= {"contexts": [{"name": "none", "context": {"cluster": "none", "user": ""}}], "kind": "Config", "apiVersion": "v1"}
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with pytest.raises(InputError, match="expected a cluster that answers"):
        target().submit(run)
