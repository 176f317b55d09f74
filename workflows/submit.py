"""Start a run on a cluster: only the driver starts elsewhere, the run is the same."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Config, load_config, to_yaml
from pipeline.errors import GigasegError, InputError, Problem, nearest, one_of
from pipeline.inputs import hash_values
from pipeline.scheduling import EXIT_INTERRUPTED
from pipeline.scheduling.runners.ray import authenticate
from workflows.run import refuse_training

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

__all__ = ["submit"]

TARGETS = ("ray",)
ADDRESS = "http://127.0.0.1:8265"  # where Ray's Jobs API listens by default
POLL_S = 1.0


def submit(config: Path, overrides: Sequence[str], *, to: str, address: str | None, wait: bool, dry_run: bool) -> int:
    """Start a run on a cluster through Ray's Job Submission API.

    A run that is under way is not started twice; one that has ended is submitted again, and resumes. Paths of the YAML must mean
    the same on the cluster's nodes, and gigaseg must be installed there. ``address`` is that of the Jobs API; None: this machine's.

    Returns:
        0, or with ``wait`` the exit code of the run.

    Raises:
        InputError: the input is wrong, or no cluster answers.
        GigasegError: the cluster refused the run.
    """
    if to not in TARGETS:
        raise InputError(Problem("--to", repr(to), one_of(TARGETS), nearest(to, TARGETS)))
    refuse_training(config)
    resolved = load_config(config, overrides)
    address = address or ADDRESS
    runner = ["--set", "compute.runner=ray"] if resolved.compute.runner == "auto" else []
    request = {
        "submission_id": f"gigaseg-{hash_values(resolved.output)}",  # one run has one id
        "entrypoint": " ".join(["gigaseg", "run", "config.yaml", *runner]),
        "metadata": {"output": resolved.output},
    }
    if dry_run:
        print(json.dumps({"address": address, **request, "config": to_yaml(resolved)}, indent=1))
        return 0
    client = _connect(address)
    submission = _start(client, request, resolved)
    print(submission)
    return _follow(client, submission) if wait else 0


def _connect(address: str) -> JobSubmissionClient:
    authenticate(address)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.WARNING)
    # Ray prefers this variable to the address that it is given.
    elsewhere = os.environ.pop("RAY_ADDRESS", None)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        fix = "Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's token."
        raise InputError(Problem("--address", f"{address}, which refuses this token", "", fix)) from error
    except (ConnectionError, RuntimeError) as error:
        raise InputError(Problem("--address", f"{address}, where no Jobs API answers", "http://HEAD:8265", "Is it running?")) from error
    finally:
        if elsewhere is not None:
            os.environ["RAY_ADDRESS"] = elsewhere


def _start(client: JobSubmissionClient, request: dict[str, Any], config: Config) -> str:
    """Submit the job and return its id, or return the id of the submission that is under way."""
    name = request["submission_id"]
    known = {job.submission_id: job.status for job in client.list_jobs() if (job.submission_id or "").startswith(f"{name}-")}
    for submission, status in known.items():
        if not status.is_terminal():
            print(f"already {status.value.lower()}: {submission}", file=sys.stderr)
            return str(submission)
    submission = f"{name}-{len(known) + 1}"
    # The command may lie in an environment of the same path on the node, which the cluster's own PATH lacks.
    environment = {"PATH": f"{Path(sys.executable).parent}:${{PATH}}"}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.yaml").write_text(to_yaml(config))
        try:
            client.submit_job(**{**request, "submission_id": submission}, runtime_env={"working_dir": folder, "env_vars": environment})
        except RuntimeError as error:
            if "already" not in str(error):
                raise GigasegError(f"the cluster refused the run: {str(error).splitlines()[0]}") from error
    return submission


def _follow(client: JobSubmissionClient, submission: str) -> int:
    """Print the run's output as it comes, and return its exit code."""
    shown = 0
    while True:
        info = client.get_job_info(submission)
        text = client.get_job_logs(submission)
        sys.stderr.write(text[shown:])
        sys.stderr.flush()
        shown = len(text)
        if info.status.is_terminal():
            break
        time.sleep(POLL_S)
    if info.driver_exit_code is not None:
        return int(info.driver_exit_code)
    print(f"{submission}: {info.status.value.lower()}: {info.message}", file=sys.stderr)
    return EXIT_INTERRUPTED if info.status.value == "STOPPED" else 1
