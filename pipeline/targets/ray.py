"""A Ray cluster, through its Job Submission API."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field, field_validator
from typing_extensions import override

from pipeline.errors import GigasegError, InputError, Problem
from pipeline.records import RunFolder
from pipeline.scheduling.runners.ray import authenticate
from pipeline.storage import refuse_secrets
from pipeline.targets import EXIT_LOST_CONTACT, Submission, Target, say
from pipeline.targets._patience import LostContactError, patiently
from pipeline.validation import Expected

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

__all__ = ["Ray"]

T = TypeVar("T")
POLL_S = 1.0
EXIT_INTERRUPTED = 130


class Ray(Target):
    """Run the driver as a job of a Ray cluster.

    gigaseg must be installed on its nodes. Where the cluster asks for a token, ``RAY_AUTH_MODE=token`` and ``RAY_AUTH_TOKEN`` are read
    from the environment; ``https://`` addresses are verified.
    """

    address: Annotated[str, Field(pattern=r"^https?://\S+$"), Expected("an address of the Jobs API, http://HEAD:8265")] = Field(
        default="http://127.0.0.1:8265", description="of the Jobs API: http://HEAD:8265"
    )

    @field_validator("address", mode="before")
    @classmethod
    def _without_secrets(cls, address: Any) -> Any:
        refuse_secrets(str(address), "--address")
        return address

    @override
    def render(self, submission: Submission) -> str:
        return json.dumps({"address": self.address, **_request(submission), "config": submission.yaml}, indent=1)

    @override
    def submit(self, submission: Submission) -> str:
        client = self._connect()
        jobs = _jobs_of(client, submission)
        if running := _running(jobs):
            say(f"already {running.status.value.lower()}: {running.submission_id}")
            return str(running.submission_id)
        job = f"{submission.name}-{len(jobs) + 1}"
        # The command may lie in an environment of the same path on the node, which the cluster's own PATH lacks.
        environment = {"PATH": f"{Path(sys.executable).parent}:${{PATH}}"}
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "config.yaml").write_text(submission.yaml)
            try:
                client.submit_job(**_request(submission), submission_id=job, runtime_env={"working_dir": folder, "env_vars": environment})
            except RuntimeError as error:
                if "already" not in str(error):
                    raise GigasegError(f"the cluster refused the run: {str(error).splitlines()[0]}") from error
        return job

    @override
    def follow(self, submission: Submission, job: str) -> int:
        client = self._connect()
        shown = 0
        try:
            while True:
                info = _known(lambda: client.get_job_info(job), self.address)
                text = _known(lambda: client.get_job_logs(job), self.address)
                sys.stderr.write(text[shown:])
                sys.stderr.flush()
                shown = len(text)
                if info.status.is_terminal():
                    return _exit_code(job, info)
                time.sleep(POLL_S)
        except LostContactError as lost:
            say(f"{job}: {lost}. The run may go on: gigaseg status {submission.config.output}")
            return EXIT_LOST_CONTACT

    @override
    def logs(self, submission: Submission) -> str:
        client = self._connect()
        return str(client.get_job_logs(str(self._last(client, submission).submission_id)))

    @override
    def stop(self, submission: Submission) -> str:
        client = self._connect()
        running = _running(_jobs_of(client, submission))
        if running is None:
            raise InputError(Problem("--stop", f"no job of {submission.config.output} that waits or runs on {self.address}"))
        # Ray kills a job a few seconds after it asked it to end, and a block may take longer: the run itself is asked, if it can be.
        folder = RunFolder(submission.config.output)
        if folder.storage.exists() and folder.read().get("state") == "running":
            folder.ask_to_stop()
        else:
            client.stop_job(str(running.submission_id))
        return str(running.submission_id)

    def _last(self, client: JobSubmissionClient, submission: Submission) -> JobDetails:
        jobs = _jobs_of(client, submission)
        if not jobs:
            raise InputError(Problem("--logs", f"no job of {submission.config.output} on {self.address}", "a run that was submitted there"))
        return max(jobs, key=lambda job: job.start_time or 0)

    def _connect(self) -> JobSubmissionClient:
        authenticate(self.address)
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        for talks in ("ray", "ray.dashboard.modules.dashboard_sdk"):  # the second has a level of its own
            logging.getLogger(talks).setLevel(logging.WARNING)
        # Ray prefers this variable to the address that it is given.
        elsewhere = os.environ.pop("RAY_ADDRESS", None)
        try:
            return JobSubmissionClient(self.address)
        except AuthenticationError as error:
            fix = "Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's token."
            raise InputError(Problem("--address", f"{self.address}, which refuses this token", "", fix)) from error
        except (ConnectionError, RuntimeError) as error:
            problem = Problem("--address", f"{self.address}, where no Jobs API answers", "http://HEAD:8265", "Is it running?")
            raise InputError(problem) from error
        finally:
            if elsewhere is not None:
                os.environ["RAY_ADDRESS"] = elsewhere


def _request(submission: Submission) -> dict[str, Any]:
    return {"entrypoint": "gigaseg run config.yaml", "metadata": {"output": submission.config.output}}


def _jobs_of(client: JobSubmissionClient, submission: Submission) -> list[JobDetails]:
    """Return every job of this run that the cluster remembers."""
    return [job for job in client.list_jobs() if (job.submission_id or "").startswith(f"{submission.name}-")]


def _running(jobs: list[JobDetails]) -> JobDetails | None:
    return next((job for job in jobs if not job.status.is_terminal()), None)


def _known(ask: Callable[[], T], address: str) -> T:
    """Ask about a job; raise LostContactError where it is not known, as by a head that was started again."""
    try:
        return patiently(ask, address, OSError)
    except RuntimeError as error:
        raise LostContactError(f"{address} does not know this job: {str(error).splitlines()[0]}") from error


def _exit_code(job: str, info: JobDetails) -> int:
    if info.driver_exit_code is not None:
        return int(info.driver_exit_code)
    say(f"{job}: {info.status.value.lower()}: {info.message}")
    return EXIT_INTERRUPTED if info.status.value == "STOPPED" else 1
