"""The commands of Slurm: which job of a run waits or runs, in which state it is, and how it ended."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pipeline.errors import GigasegError, InputError, Problem
from pipeline.targets import say
from pipeline.targets._patience import LostContactError

__all__ = ["JobState", "NoAnswerError", "answered", "call", "ended_with", "look_at", "pending_job", "require_slurm"]

T = TypeVar("T")
LIMIT_S = 120.0  # for one command; Slurm itself gives up an answer after some ten seconds
POLL_S, MOST_POLL_S = 2.0, 15.0
ACTIVE = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT")
EXIT_INTERRUPTED = 130
MILD = (0, 3, EXIT_INTERRUPTED, 4, 2, 1)
"""Exit codes of runs, the mildest first."""
RESUMABLE = ("CANCELLED", "TIMEOUT", "PREEMPTED", "REVOKED")
NO_ANSWER = re.compile(
    r"unable to contact|connect failure|timed out|connection refused|communication|socket|not responding"
    r"|resolve_ctls|fetch_config|configuration source|dns srv",  # a machine that does not know where the controller is
    re.IGNORECASE,
)


class NoAnswerError(Exception):
    """The controller of the cluster does not answer now."""


@dataclass(frozen=True)
class JobState:
    """What Slurm says of a job, or of a task of an array.

    Attributes:
        state: its state in capitals, such as ``RUNNING``.
        reason: why it waits, or why it ended.
        code: exit code of the script; meaningful where it has ended.
        signal: the signal that ended the script; 0: none did.
        log: the file that it prints into; empty where Slurm does not say.
    """

    state: str
    reason: str = ""
    code: int = 0
    signal: int = 0
    log: str = ""

    @property
    def is_over(self) -> bool:
        """Whether it will not run again by itself."""
        return self.state not in (*ACTIVE, "COMPLETING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT")


def require_slurm() -> None:
    """Raise InputError where the commands of Slurm are not installed."""
    if shutil.which("sbatch") is None:
        fix = "Run it on a login node, or print the script with --dry-run and submit it by hand."
        raise InputError(Problem("--to slurm", "no sbatch on this machine", "a machine from which Slurm jobs are submitted", fix))


def call(*command: str, script: str | None = None) -> str:
    """Return what a command of Slurm prints; ``script`` is its standard input.

    Raises:
        NoAnswerError: the controller does not answer.
        GigasegError: it refuses; the message is Slurm's.
    """
    try:
        ended = subprocess.run(
            command,
            input=script,
            stdin=None if script else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NoAnswerError(f"{command[0]} took more than {LIMIT_S:.0f} s") from error
    if ended.returncode == 0:
        return ended.stdout
    told = "; ".join(line.removeprefix(f"{command[0]}: ").removeprefix("error: ") for line in ended.stderr.splitlines() if line)
    if NO_ANSWER.search(told):
        raise NoAnswerError(told)
    raise GigasegError(f"{command[0]}: {told or f'exit code {ended.returncode}'}")


def answered(ask: Callable[[], T]) -> T:
    """Return an answer of the controller, or raise InputError where it does not answer."""
    try:
        return ask()
    except NoAnswerError as error:
        fix = "Is this a machine of the cluster? Try: scontrol ping"
        raise InputError(Problem("--to slurm", f"no answer from the cluster's controller ({error})", "", fix)) from error


def pending_job(name: str) -> tuple[str, str] | None:
    """Return id and state of this user's job of a name that waits or runs; None where there is none."""
    told = answered(lambda: call("squeue", "--noheader", f"--user={os.getuid()}", f"--name={name}", "--format=%F|%T"))
    jobs = [line.strip().partition("|") for line in told.splitlines() if line.strip()]
    return next(((job, state) for job, _, state in jobs if state in ACTIVE), None)


def look_at(job: str) -> dict[str, JobState]:
    """Return the state of a job, or of each task of an array, by its id; what the controller has forgotten is looked up in the accounts.

    Raises:
        LostContactError: neither knows the job.
    """
    try:
        told = call("scontrol", "show", "job", "--oneliner", job)
    except GigasegError as unknown:
        return _from_accounts(job, unknown)
    return {_value(line, "JobId"): _state_of(line) for line in told.splitlines() if line.strip()}


def ended_with(job: str, states: Sequence[JobState]) -> int:
    """Return the exit code of the run; of an array the gravest. What Slurm ended is told, with its reason."""
    codes = [_exit_code(job, state) for state in states]
    return max(codes, key=lambda code: MILD.index(code) if code in MILD else len(MILD))


def _exit_code(job: str, ended: JobState) -> int:
    if ended.state == "COMPLETED":
        return 0
    if ended.state == "FAILED" and not ended.signal:
        return ended.code
    say(f"{job}: {ended.state.lower().replace('_', ' ')}: {ended.reason or f'signal {ended.signal}'}")
    return EXIT_INTERRUPTED if ended.state in RESUMABLE else 1


def _value(line: str, name: str) -> str:
    """Return a value of a line of ``scontrol show job``; it may hold spaces."""
    match = re.search(rf"(?:^|\s){name}=(.*?)(?=\s+[A-Za-z/:]+=|\s*$)", line)
    return match[1].strip() if match else ""


def _state_of(line: str) -> JobState:
    code, _, signal = _value(line, "ExitCode").partition(":")
    reason = _value(line, "Reason")
    state, log = _value(line, "JobState"), _value(line, "StdOut")
    return JobState(state, "" if reason == "None" else reason, int(code or 0), int(signal or 0), log)


def _from_accounts(job: str, unknown: GigasegError) -> dict[str, JobState]:
    try:
        told = call("sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State,ExitCode", f"--jobs={job}")
    except (GigasegError, OSError) as error:  # no accounting on this cluster
        raise LostContactError(f"Slurm no longer knows it ({unknown})") from error
    states = {}
    for line in told.splitlines():
        number, state, ended = line.split("|")
        code, _, signal = ended.partition(":")
        states[number] = JobState(state.partition(" ")[0], code=int(code or 0), signal=int(signal or 0))
    if not states:
        raise LostContactError(f"Slurm no longer knows it ({unknown})")
    return states
