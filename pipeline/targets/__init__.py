"""Targets: the kinds of cluster that a run is submitted to. Only the driver starts elsewhere, the run is the same.

Owns: what a scheduler is told (a request, a script, a manifest), and how its job is followed and ended.
May import: inputs, how to authenticate with Ray, and below. Never touches: images, the plan, the ledger: the job on the cluster is
``gigaseg run``, which holds the lock, resumes and reports.

A target is one file, found by its name as ``submit --to NAME``; its fields are its options, set by flags of ``submit`` or by the YAML
of ``--options``.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from pipeline.config import Config, to_yaml
from pipeline.inputs import hash_values
from pipeline.plugins import Plugin
from pipeline.validation import Expected

__all__ = ["CRON", "EXIT_LOST_CONTACT", "Cron", "Submission", "Target", "say"]

_FIELDS = ("[0-5]?[0-9]", "[01]?[0-9]|2[0-3]", "0?[1-9]|[12][0-9]|3[01]", "0?[1-9]|1[0-2]|[A-Za-z]{3}", "[0-7]|[A-Za-z]{3}")
_PARTS = tuple(rf"(\*|({value})(-({value}))?)(/[1-9][0-9]?)?" for value in _FIELDS)
CRON = rf"^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|{' '.join(f'{part}(,{part})*' for part in _PARTS)})$"
"""A schedule as cron, Slurm and Kubernetes read it: minute, hour, day, month, day of the week."""

Cron = Annotated[str, Field(pattern=CRON), Expected("a schedule as cron has it (as in '0 2 * * *' or '@daily')")]

EXIT_LOST_CONTACT = 5
"""Exit code of ``submit --wait`` where the cluster no longer answers: how the run ended is not known here."""


def say(line: str) -> None:
    """Print a line on stderr; stdout holds results alone."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


@dataclass(frozen=True)
class Submission:
    """A run to submit. Paths in its config are absolute: they must mean the same on every machine of the cluster.

    Attributes:
        config: as it was resolved.
        runner: the runner that the job uses, where the YAML leaves it to ``auto``.
    """

    config: Config
    runner: str = "auto"

    @property
    def name(self) -> str:
        """Name of every job of this run: the same output folder gives the same name; letters, digits and ``-``."""
        return f"gigaseg-{hash_values(self.config.output)}"

    @property
    def yaml(self) -> str:
        """The config as YAML, with the runner of the job."""
        compute = self.config.compute
        if compute.runner == "auto" and self.runner != "auto":
            compute = compute.model_copy(update={"runner": self.runner})
        return to_yaml(self.config.model_copy(update={"compute": compute}))


class Target(Plugin):
    """Base of the targets. One output folder has at most one job at a time on a cluster: to submit again returns the job that runs.

    Methods that contact the cluster raise InputError where it does not answer or refuses the user, and GigasegError where it
    refuses the job.
    """

    @property
    def runner(self) -> str:
        """The runner that the job uses, where the YAML leaves it to ``auto``."""
        return "ray"

    @abstractmethod
    def render(self, submission: Submission) -> str:
        """Return what would be sent, as text that a user can read, keep and submit by hand; contact nothing."""

    @abstractmethod
    def submit(self, submission: Submission) -> str:
        """Start the job and return its id, or the id of the job of this run that waits or runs."""

    @abstractmethod
    def follow(self, submission: Submission, job: str) -> int:
        """Print what the job prints on stderr until it ends; return the exit code of the run, or ``EXIT_LOST_CONTACT``."""

    @abstractmethod
    def logs(self, submission: Submission) -> str:
        """Return what the last job of this run has printed; raises InputError where there is none."""

    @abstractmethod
    def stop(self, submission: Submission) -> str:
        """Ask the job of this run to end, so that it can be resumed; return its id, or raise InputError where none waits or runs."""
