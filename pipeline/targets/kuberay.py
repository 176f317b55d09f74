"""Kubernetes with the KubeRay operator: a RayJob, or what creates one by a schedule, applied with kubectl."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic import Field
from typing_extensions import override

from pipeline.errors import GigasegError, InputError, Problem
from pipeline.targets import EXIT_LOST_CONTACT, Submission, say
from pipeline.targets._kubectl import UnreachableError, run_kubectl
from pipeline.targets._manifests import Manifests, as_yaml
from pipeline.targets._patience import LostContactError, patiently

__all__ = ["KubeRay"]

POLL_S = 5.0
EXIT_INTERRUPTED = 130
ENDED = ("Complete", "Failed")  # of jobDeploymentStatus
EXIT_CODE = re.compile(r"failed with exit code (-?\d+)")  # in Ray's message about a job


class KubeRay(Manifests):
    """Run the driver and its Ray cluster as a RayJob of Kubernetes.

    The image holds gigaseg: ``workflows/cluster/Dockerfile`` makes one. The config travels as a ConfigMap; credentials are named
    Secrets, which pods see as environment variables. Runs that overlap do no harm: the output folder has one holder, and the
    second RayJob ends at once with jobStatus FAILED, reason AppFailed and ``exit code 4`` in its message. A RayJob that ends with
    exit code 3 is FAILED as well; ``--wait`` gives the run's own code. With ``backoff`` every failed run is tried again.

    Example::

        image: registry.example.com/gigaseg:1.0
        nodes: 4
        gpus_per_node: 1
        namespace: science
        node_selector: {cloud.google.com/gke-accelerator: nvidia-l4}
        tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
        volumes: [{name: data, claim: slides, mount: /data}]
        secrets: [s3-credentials]
    """

    context: str | None = Field(default=None, description="context of kubectl; null: the current one")

    @override
    def submit(self, submission: Submission) -> str:
        if self.schedule is not None:
            self._kubectl("apply", "-f", "-", text=as_yaml(self.objects(submission, submission.name)))
            return submission.name
        jobs = self._jobs_of(submission)
        if running := next((job for job in jobs if not has_ended(job)), None):
            say(f"already {state_of(running).lower()}: {name_of(running)}")
            return name_of(running)
        attempts = [int(number) for job in jobs if (number := name_of(job).rpartition("-")[2]).isdecimal()]
        name = f"{submission.name}-{max(attempts, default=0) + 1}"
        self._kubectl("apply", "-f", "-", text=as_yaml(self.objects(submission, name)))
        return name

    @override
    def follow(self, submission: Submission, job: str) -> int:
        shown, told = 0, ""
        try:
            while True:
                found, shown = patiently(partial(self._look_at, job, shown), self._where, UnreachableError)
                if (state := state_of(found)) != told:
                    told = state
                    say(f"{job}: {state}")
                if has_ended(found):
                    return exit_code_of(found)
                time.sleep(POLL_S)
        except LostContactError as lost:
            say(f"{job}: {lost}. The run may go on: gigaseg status {submission.config.output}")
            return EXIT_LOST_CONTACT

    def _look_at(self, job: str, shown: int) -> tuple[Any, int]:
        """Return the RayJob, and how many characters of its log have been printed, ``shown`` of them before."""
        found = json.loads(self._kubectl("get", "rayjob", job, "-o", "json"))
        return found, shown + self._print_log(job, shown)

    @override
    def logs(self, submission: Submission) -> str:
        jobs = self._jobs_of(submission)
        if not jobs:
            raise InputError(
                Problem("--logs", f"no RayJob of {submission.config.output} in {self._where}", "a run that was submitted there")
            )
        return self._kubectl("logs", f"job/{name_of(jobs[-1])}")  # the Job that submits has the name of the RayJob

    @override
    def stop(self, submission: Submission) -> str:
        if self.schedule is not None:  # first, so that it starts no other run
            kind = "raycronjob" if self.cron == "ray" else "cronjob"
            self._kubectl("patch", kind, submission.name, "--type=merge", "-p", json.dumps({"spec": {"suspend": True}}))
            say(f"suspended: {kind} {submission.name}")
        running = next((job for job in self._jobs_of(submission) if not has_ended(job)), None)
        if running is None and self.schedule is not None:
            return submission.name
        if running is None:
            raise InputError(Problem("--stop", f"no RayJob of {submission.config.output} that waits or runs in {self._where}"))
        if not self._ask_to_stop(running, submission.config.output):
            self._kubectl("delete", "rayjob", name_of(running), "--wait=false")
        return name_of(running)

    def _ask_to_stop(self, job: Mapping[str, Any], output: str) -> bool:
        """Ask the run itself, which then finishes the blocks in flight; return whether it could be asked."""
        cluster = job.get("status", {}).get("rayClusterName")
        if not cluster:
            return False
        try:
            heads = self._kubectl("get", "pods", "-l", f"ray.io/cluster={cluster},ray.io/node-type=head", "-o", "name").split()
            if heads:
                self._kubectl("exec", heads[0], "-c", "ray-head", "--", "gigaseg", "stop", output)
        except UnreachableError:
            raise
        except GigasegError as error:
            say(f"{name_of(job)} could not be asked to stop, and is deleted: {error}")
            return False
        return bool(heads)

    def _print_log(self, job: str, shown: int) -> int:
        """Print what is new in the log of a job; return how many characters that is."""
        try:
            new = self._kubectl("logs", f"job/{job}")[shown:]
        except UnreachableError:
            raise
        except GigasegError:
            return 0  # its pod has not started yet
        sys.stderr.write(new)
        sys.stderr.flush()
        return len(new)

    def _jobs_of(self, submission: Submission) -> list[dict[str, Any]]:
        """Return the RayJobs of a run, the oldest first, also those that a schedule created."""
        listed = json.loads(self._kubectl("get", "rayjobs", "-o", "json"))["items"]
        own = [job for job in listed if name_of(job).startswith(f"{submission.name}-")]
        return sorted(own, key=lambda job: str(job["metadata"].get("creationTimestamp", "")))

    @property
    def _where(self) -> str:
        return (
            ", ".join(f"{key} {value}" for key, value in (("context", self.context), ("namespace", self.namespace)) if value) or "kubectl"
        )

    def _kubectl(self, *arguments: str, text: str = "") -> str:
        where = [f"--{key}={value}" for key, value in (("context", self.context), ("namespace", self.namespace)) if value]
        return run_kubectl([*where, *arguments], where=self._where, text=text)


def name_of(job: Mapping[str, Any]) -> str:
    """Return the name of a RayJob."""
    return str(job["metadata"]["name"])


def state_of(job: Mapping[str, Any]) -> str:
    """Return the state of a RayJob, as Kubernetes shows it."""
    return str(job.get("status", {}).get("jobDeploymentStatus") or "New")


def has_ended(job: Mapping[str, Any]) -> bool:
    """Return whether a RayJob will do nothing more."""
    return state_of(job) in ENDED


def exit_code_of(job: Mapping[str, Any]) -> int:
    """Return the exit code of the run of a RayJob that has ended.

    Example:
        >>> message = "Job entrypoint command failed with exit code 3, last available logs: .."
        >>> exit_code_of({"metadata": {"name": "a"}, "status": {"jobStatus": "FAILED", "message": message}})
        3
    """
    status = job["status"]
    result, message = status.get("jobStatus"), status.get("message", "")
    if result == "SUCCEEDED":
        return 0
    if code := EXIT_CODE.search(message):
        number = int(code[1])
        return number if number >= 0 else 128 - number  # ended by a signal
    first = message.splitlines()[0] if message else "no message"
    say(f"{name_of(job)}: {status.get('reason') or result or state_of(job)}: {first}")
    return EXIT_INTERRUPTED if result == "STOPPED" else 1
