"""A Slurm cluster, through sbatch and its other commands."""

from __future__ import annotations

import hashlib
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from textwrap import indent
from typing import Any, Self

from pydantic import Field, model_validator
from typing_extensions import override

from pipeline.config import is_url
from pipeline.errors import GigasegError, InputError, Problem
from pipeline.scheduling.runners.ray import HEALTH
from pipeline.targets import EXIT_LOST_CONTACT, Cron, Submission, Target, say
from pipeline.targets._patience import LostContactError, patiently
from pipeline.targets._slurm_commands import (
    MOST_POLL_S,
    POLL_S,
    JobState,
    NoAnswerError,
    answered,
    call,
    ended_with,
    look_at,
    pending_job,
    require_slurm,
)
from pipeline.targets._slurm_options import Amount, BatchLine, Folder, Name, ShellLine, TimeLimit, check_folder, seconds_of
from pipeline.targets._slurm_schedule import Entry
from pipeline.targets._slurm_tasks import write_tasks
from pipeline.validation import problems_error

__all__ = ["Slurm"]

PATIENCE = 2  # restarts in a row before which no block had been added
NEW_S = 3.0  # in which what a node has written is seen here, where folders are shared by NFS


class Slurm(Target):
    """Run as a job of a Slurm cluster: on one node as on any machine, on several with a Ray of the job's own.

    A grace before the time limit the job stops cleanly and queues itself again; the next start resumes. Nodes must see images, model,
    output and this installation under the same paths. With ``array`` the images are shared out to independent tasks of one node each:
    task K writes masks and report into ``OUTPUT/task-K``.
    """

    nodes: int = Field(default=1, ge=1, description="machines")
    gpus_per_node: int = Field(default=0, ge=0, description="GPUs of each")
    cpus_per_node: int | None = Field(default=None, ge=1, description="cores of each; null: 4 for each GPU, 4 without")
    memory: Amount | None = Field(default=None, description="of each node, such as 64G; null: the partition's")
    time: TimeLimit | None = Field(default=None, description="time limit, such as '08:00:00'; null: the partition's")
    partition: Name | None = Field(default=None, description="partition; null: the cluster's")
    account: Name | None = Field(default=None, description="account that is charged; null: the user's")
    qos: Name | None = Field(default=None, description="quality of service; null: the user's")
    setup: tuple[ShellLine, ...] = Field(
        default=(), strict=False, description="lines of bash before the run, such as 'module load cuda' or 'source venv/bin/activate'"
    )
    extra: tuple[BatchLine, ...] = Field(default=(), strict=False, description="more options of sbatch, such as '--constraint=a100'")
    array: int | None = Field(default=None, ge=2, description="tasks that share the images, each with an output of its own; null: one job")
    grace: int = Field(default=120, ge=30, le=65535, description="seconds before the time limit at which the run stops")
    bin: Folder = Field(default=str(Path(sys.executable).parent), description="folder of gigaseg on the nodes")
    log_folder: Folder | None = Field(
        default=None, description="folder for what jobs print, which nodes see; null: the one that holds the output"
    )
    schedule: Cron | None = Field(default=None, description="when it is submitted again and again, as cron has it: '0 2 * * *'")

    @model_validator(mode="after")
    def _agreeing(self) -> Self:
        problems = []
        limit = None if self.time is None else seconds_of(self.time)
        if limit is not None and limit <= self.grace:
            fix = "Ask for more time, or set a smaller grace."
            problems.append(Problem("time", repr(self.time), f"more than the grace of {self.grace} s", fix))
        if self.array and self.nodes > 1:
            problems.append(Problem("array", f"{self.array}, with nodes: {self.nodes}", "tasks of one node each"))
        if self.array and self.schedule:
            problems.append(Problem("array", f"{self.array}, with a schedule", "one of them", "Schedule one job for all images."))
        if problems:
            raise problems_error(problems)
        return self

    @property
    @override
    def runner(self) -> str:
        return "ray" if self.nodes > 1 else "auto"

    @override
    def render(self, submission: Submission) -> str:
        script = self._script(submission, list(range(self.array or 0)))
        return f"{script}\n{indent(self._entry(submission).text, '# ')}" if self.schedule else script

    @override
    def submit(self, submission: Submission) -> str:
        require_slurm()
        if self.schedule:
            return self._save(submission)
        if running := pending_job(submission.name):
            say(f"already {running[1].lower()}: {running[0]}")
            return running[0]
        tasks = write_tasks(submission.config, self.array) if self.array else []
        script = self._script(submission, tasks)
        self._logs(submission).mkdir(parents=True, exist_ok=True)  # Slurm ends a job that cannot open its log, and says nothing
        job = answered(lambda: call("sbatch", "--parsable", script=script)).strip().partition(";")[0]
        say(f"log: {self._logs(submission) / submission.name}-{job}{'_*' if tasks else ''}.log")
        return job

    @override
    def follow(self, submission: Submission, job: str) -> int:
        if self.schedule:
            return 0  # there is no job yet
        seen: dict[str, JobState] = {}
        shown: dict[str, int] = {}
        told, pause = "", POLL_S
        try:
            while True:
                # Slurm forgets tasks of an array that have ended, while others run.
                seen = {number: state for number, state in seen.items() if state.is_over} | patiently(
                    lambda: look_at(job), "Slurm", NoAnswerError
                )
                states = list(seen.values())
                _show_logs(states, shown)
                if all(state.is_over for state in states):
                    time.sleep(NEW_S)
                    _show_logs(states, shown)
                    return ended_with(job, states)
                if (now := _described(states)) != told:
                    say(f"{job}: {now}")
                    told, pause = now, POLL_S
                time.sleep(pause)
                pause = min(1.5 * pause, MOST_POLL_S)
        except LostContactError as lost:
            say(f"{job}: {lost}. The run may go on: gigaseg status {submission.config.output}")
            return EXIT_LOST_CONTACT

    @override
    def logs(self, submission: Submission) -> str:
        logs = sorted(self._logs(submission).glob(f"{submission.name}-*.log"), key=lambda path: path.stat().st_mtime)
        if not logs:
            found = f"no log of {submission.config.output} in {self._logs(submission)}"
            fix = "Set the option `log_folder` as when it was submitted."
            raise InputError(Problem("--logs", found, "a run that was submitted", fix))
        job = logs[-1].stem.partition("_")[0]  # the tasks of an array have logs of their own
        return "\n".join(path.read_text(errors="replace") for path in sorted(logs) if path.stem.partition("_")[0] == job)

    @override
    def stop(self, submission: Submission) -> str:
        require_slurm()
        removed = self._entry(submission).remove() if self.schedule else ""
        running = pending_job(submission.name)
        if running is None and removed:
            return removed
        if running is None:
            raise InputError(Problem("--stop", f"no job of {submission.config.output} that waits or runs", "", "Try: squeue --me"))
        # One that waits is gone at once; one that runs finishes its blocks in flight. The script queues again after USR1 alone.
        answered(lambda: call("scancel", "--quiet", "--state=PENDING", running[0]))
        if pending_job(submission.name):
            try:
                answered(lambda: call("scancel", "--quiet", "--batch", "--signal=USR2", running[0]))
            except GigasegError:
                if pending_job(submission.name):  # else it has ended by itself meanwhile
                    raise
        return running[0]

    def _script(self, submission: Submission, tasks: list[int]) -> str:
        """Return the script that sbatch is given; ``tasks``: of the array."""
        self._check(submission)
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(  # noqa: S701 - not HTML: `quote` is for the shell
            loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters["quote"] = shlex.quote
        yaml = submission.yaml.rstrip("\n")
        return environment.get_template("slurm.sh.j2").render(
            options=self._options(submission, tasks),
            bin=self.bin,
            setup=self.setup,
            output=submission.config.output,
            tasks=tasks,
            yaml=yaml,
            delimiter=f"CONFIG_{hashlib.sha256(yaml.encode()).hexdigest()[:16]}",  # no YAML holds its own hash
            nodes=self.nodes,
            cpus=self._cpus,
            gpus=self.gpus_per_node,
            grace=self.grace,
            health=HEALTH,
            logs=str(self._logs(submission)),
            name=submission.name,
            patience=PATIENCE,
        )

    def _check(self, submission: Submission) -> None:
        """Refuse a config that says itself where it runs."""
        compute, where = submission.config.compute, submission.config.where
        problems = []
        if compute.address is not None:
            problems.append(Problem(where("compute.address"), compute.address, "no address", "The job starts a Ray of its own."))
        if compute.runner == "serial" and self.nodes > 1:
            problems.append(Problem(where("compute.runner"), f"'serial' on {self.nodes} nodes", "auto or ray, or nodes: 1"))
        try:
            check_folder(str(self._logs(submission)))
        except ValueError as error:
            problems.append(Problem("the folder of logs", str(self._logs(submission)), str(error), "Set the option `log_folder`."))
        if problems:
            raise InputError(problems)

    @property
    def _cpus(self) -> int:
        return self.cpus_per_node or 4 * max(1, self.gpus_per_node)

    def _options(self, submission: Submission, tasks: list[int]) -> list[str]:
        """Return the options of sbatch, each on a line of the script."""
        log = f"{submission.name}-{'%A_%a' if tasks else '%j'}.log"
        chosen: dict[str, Any] = {
            "job-name": submission.name,
            "output": f'"{self._logs(submission)}/{log}"',
            "open-mode": "append",
            "signal": f"B:USR1@{self.grace}",
            "nodes": self.nodes,
            "ntasks-per-node": 1,
            "cpus-per-task": self._cpus,
            "gres": f"gpu:{self.gpus_per_node}" if self.gpus_per_node else None,
            "mem": self.memory and self.memory.removesuffix("iB"),
            "time": self.time,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            # A second job of this run, submitted at the same moment, waits for the end of the first.
            "dependency": None if tasks else "singleton",
            "array": ",".join(map(str, tasks)) or None,
        }
        flags = ["--requeue", *(["--no-kill"] if self.nodes > 1 else [])]
        return [*(f"--{name}={value}" for name, value in chosen.items() if value is not None), *flags, *self.extra]

    def _logs(self, submission: Submission) -> Path:
        """Return the folder for what jobs print, which must be there before a job starts."""
        if self.log_folder is not None:
            return Path(self.log_folder).absolute()
        output = submission.config.output
        return Path.cwd() if is_url(output) else Path(output).parent

    def _save(self, submission: Submission) -> str:
        """Write the script, and have Slurm submit it on schedule; return the entry."""
        entry = self._entry(submission)
        script = self._script(submission, [])
        entry.script.parent.mkdir(parents=True, exist_ok=True)
        entry.script.write_text(script)
        return entry.add()

    def _entry(self, submission: Submission) -> Entry:
        options = {"partition": self.partition, "account": self.account, "qos": self.qos}
        return Entry(submission.name, str(self.schedule), self._logs(submission) / f"{submission.name}.sh", options)


def _show_logs(states: Sequence[JobState], shown: dict[str, int]) -> None:
    """Print on stderr what has been added to the logs; ``shown`` counts the bytes of each."""
    for path in dict.fromkeys(state.log for state in states if state.log):
        with suppress(OSError), Path(path).open("rb") as file:
            file.seek(shown.get(path, 0))
            added = file.read()
            shown[path] = shown.get(path, 0) + len(added)
            sys.stderr.write(added.decode(errors="replace"))
    sys.stderr.flush()


def _described(states: Sequence[JobState]) -> str:
    """Return in words what jobs do and wait for.

    Example:
        >>> _described([JobState("PENDING", "Resources"), JobState("PENDING", "Resources")])
        '2 pending (Resources)'
    """
    words = Counter(f"{one.state.lower()}{f' ({one.reason})' if one.reason else ''}" for one in states)
    return ", ".join(word if len(states) == 1 else f"{count} {word}" for word, count in words.items())
